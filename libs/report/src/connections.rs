//! `status connections`, `status targets`.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use weft_proto::router::v1 as pb;

use super::{Identity, Problem, endpoint, size, trimmed};

/// All connections of this host, and the targets that are not connected.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Connections {
    /// Connections, in the router's order.
    pub connections: Vec<Connection>,
    /// Peers that are reached over others only, in the router's order.
    pub over_others: Vec<Reached>,
    /// Targets without a connection.
    pub targets: Vec<Target>,
}

/// One connection.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Connection {
    /// The peer at the other end.
    pub peer: Identity,
    /// Where the control connection goes.
    pub address: String,
    /// Whether this host dialled.
    pub outbound: bool,
    /// "established", or "pending" while data does not pass yet.
    pub state: &'static str,
    /// How data goes: "direct-udp", "relay" (over other peers), "stream" (inside the control connection), "kernel" (VXLAN, not encrypted) or "none".
    pub path: &'static str,
    /// Printed name of the neighbour that data goes over by "relay".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub relay: String,
    /// All ways by which data may go, the one in use first.
    pub ways: Vec<Way>,
    /// Where datagrams go; absent without a direct path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_address: Option<String>,
    /// What seals the data; empty without a session.
    pub cipher: String,
    /// Round trip of the data path, in microseconds; 0 while unknown.
    pub round_trip_micros: u64,
    /// Bytes of data sent, by all ways.
    pub sent_bytes: u64,
    /// Bytes of data received, by all ways.
    pub received_bytes: u64,
    /// Completed key agreements.
    pub rekeys: u64,
    /// How long the connection has lasted, in seconds.
    pub age_seconds: u64,
    /// Why it is not as good as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// A peer that is reached over others only.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Reached {
    /// The peer.
    pub peer: Identity,
    /// How data goes: "direct-udp", "relay" (over other peers) or "none".
    pub path: &'static str,
    /// Printed name of the neighbour that data goes over by "relay".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub relay: String,
    /// All ways by which data may go, the one in use first.
    pub ways: Vec<Way>,
    /// What seals the data; empty without a session.
    pub cipher: String,
    /// Round trip of the data path, in microseconds; 0 while unknown.
    pub round_trip_micros: u64,
    /// Bytes of data sent, by all ways.
    pub sent_bytes: u64,
    /// Bytes of data received, by all ways.
    pub received_bytes: u64,
}

/// One way by which data may go to a peer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Way {
    /// "direct-udp", "relay", "stream" or "kernel".
    pub path: &'static str,
    /// Where datagrams go by "direct-udp" and "kernel".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_address: Option<String>,
    /// Printed name of the neighbour that data goes over by "relay".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub relay: String,
    /// Whether data goes there.
    pub in_use: bool,
    /// Of its probes, in microseconds; 0 while unknown.
    pub round_trip_micros: u64,
    /// Datagrams that are lost of a thousand.
    pub loss_permille: u32,
    /// Largest sealed datagram that it is known to carry, in bytes.
    pub largest_bytes: u32,
    /// Whether batches of datagrams survive it.
    pub batched: bool,
    /// Those of the bytes sent that went by "kernel".
    #[serde(skip_serializing_if = "is_zero")]
    pub sent_bytes: u64,
    /// Those of the bytes received that came by "kernel".
    #[serde(skip_serializing_if = "is_zero")]
    pub received_bytes: u64,
    /// Why data does not go there; empty for the one in use.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// One target.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Target {
    /// As given.
    pub target: String,
    /// "connected", "connecting", "retrying", or "failed" if it is not tried again.
    pub state: &'static str,
    /// Why the last try failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Seconds until the next try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_seconds: Option<u64>,
}

/// All targets.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Targets {
    /// Targets in the router's order.
    pub targets: Vec<Target>,
}

impl Connections {
    /// Takes what the router says.
    #[must_use]
    pub fn new(status: &pb::GetStatusResponse) -> Self {
        let targets = status.targets.iter().filter(|target| target.state() != pb::TargetState::Connected);
        Self {
            connections: status.connections.iter().map(|to| Connection::new(to, status)).collect(),
            over_others: Reached::all(status),
            targets: targets.map(Target::from).collect(),
        }
    }
}

impl Targets {
    /// Takes what the router says.
    #[must_use]
    pub fn new(status: &pb::GetStatusResponse) -> Self {
        Self { targets: status.targets.iter().map(Target::from).collect() }
    }
}

impl Connection {
    fn new(connection: &pb::Connection, status: &pb::GetStatusResponse) -> Self {
        let known = status.peers.iter().find(|peer| peer.peer_name == connection.peer_name);
        let ways: Vec<Way> = known.into_iter().flat_map(|peer| &peer.data_paths).map(Way::from).collect();
        let [sent_bytes, received_bytes] = traffic(connection.sent_bytes, connection.received_bytes, &ways);
        Self {
            peer: Identity::new(connection.peer_name.as_ref(), &connection.name, &connection.nickname),
            address: connection.endpoint.as_ref().map(endpoint).unwrap_or_default(),
            outbound: connection.outbound,
            state: state(connection.state()),
            path: path(connection.path()),
            relay: relay(&ways),
            ways,
            data_address: connection.data_endpoint.as_ref().map(endpoint),
            cipher: connection.cipher.clone(),
            round_trip_micros: connection.round_trip_micros,
            sent_bytes,
            received_bytes,
            rekeys: connection.rekeys,
            age_seconds: connection.age_seconds,
            problem: connection.problem.as_ref().map(Into::into),
        }
    }
}

impl Reached {
    fn all(status: &pb::GetStatusResponse) -> Vec<Self> {
        let is_connected = |peer: &&pb::Peer| status.connections.iter().any(|to| to.peer_name == peer.peer_name);
        let reachable = status.peers.iter().filter(|peer| peer.state() == pb::PeerState::Reachable);
        reachable.filter(|peer| !is_connected(peer)).map(Self::from).collect()
    }
}

impl From<&pb::Peer> for Reached {
    fn from(peer: &pb::Peer) -> Self {
        let used = peer.data_paths.iter().find(|way| way.in_use);
        let ways: Vec<Way> = peer.data_paths.iter().map(Way::from).collect();
        let [sent_bytes, received_bytes] = traffic(peer.sent_bytes, peer.received_bytes, &ways);
        Self {
            peer: Identity::new(peer.peer_name.as_ref(), &peer.name, &peer.nickname),
            path: path(used.map_or(pb::PathKind::None, pb::DataPath::kind)),
            relay: relay(&ways),
            ways,
            cipher: peer.cipher.clone(),
            round_trip_micros: used.map_or(0, |way| way.round_trip_micros),
            sent_bytes,
            received_bytes,
        }
    }
}

impl From<&pb::DataPath> for Way {
    fn from(way: &pb::DataPath) -> Self {
        Self {
            path: path(way.kind()),
            data_address: way.endpoint.as_ref().map(endpoint),
            relay: way.relay.clone(),
            in_use: way.in_use,
            round_trip_micros: way.round_trip_micros,
            loss_permille: way.loss_permille,
            largest_bytes: way.largest_bytes,
            batched: way.batched,
            sent_bytes: way.sent_bytes,
            received_bytes: way.received_bytes,
            reason: way.reason.clone(),
        }
    }
}

const fn path(kind: pb::PathKind) -> &'static str {
    match kind {
        pb::PathKind::Unspecified | pb::PathKind::None => "none",
        pb::PathKind::DirectUdp => "direct-udp",
        pb::PathKind::Relay => "relay",
        pb::PathKind::Stream => "stream",
        pb::PathKind::Kernel => KERNEL,
    }
}

/// Returns over whom data goes, if it goes over others.
fn relay(ways: &[Way]) -> String {
    ways.iter().find(|way| way.in_use).map(|way| way.relay.clone()).unwrap_or_default()
}

/// Adds to what was sealed, sent and received, what went by ways that count for themselves.
fn traffic(sent: u64, received: u64, ways: &[Way]) -> [u64; 2] {
    let sum = |sealed, of: fn(&Way) -> u64| ways.iter().map(of).fold(sealed, u64::saturating_add);
    [sum(sent, |way| way.sent_bytes), sum(received, |way| way.received_bytes)]
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Returns the ways that would be better than the one in use, if they worked: all others, but none than VXLAN, and nothing but
/// that than UDP straight to the peer.
fn better<'a>(path: &'a str, ways: &'a [Way]) -> impl Iterator<Item = &'a Way> {
    let wanted = move |way: &&Way| path != KERNEL && (path != "direct-udp" || way.path == KERNEL);
    ways.iter().filter(move |way| wanted(way) && !way.in_use && !way.reason.is_empty())
}

/// How data goes that is not encrypted.
const KERNEL: &str = "kernel";

const fn state(state: pb::ConnectionState) -> &'static str {
    match state {
        pb::ConnectionState::Unspecified | pb::ConnectionState::Pending => "pending",
        pb::ConnectionState::Established => "established",
    }
}

impl From<&pb::Target> for Target {
    fn from(target: &pb::Target) -> Self {
        Self {
            target: target.text.clone(),
            state: match target.state() {
                pb::TargetState::Connected => "connected",
                pb::TargetState::Unspecified | pb::TargetState::Connecting => "connecting",
                pb::TargetState::Waiting => "retrying",
                pb::TargetState::Refused => "failed",
            },
            problem: target.problem.as_ref().map(Into::into),
            retry_seconds: target.retry_seconds,
        }
    }
}

impl Target {
    /// Writes why it is not connected and when it is tried again.
    fn info(&self) -> String {
        let problem = self.problem.as_ref().map(ToString::to_string);
        let retry = match (self.state, self.retry_seconds) {
            ("failed", _) => Some("retry: never".to_owned()),
            (_, Some(seconds)) => Some(format!("retry: {seconds}s")),
            _ => None,
        };
        problem.into_iter().chain(retry).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for connection in &self.connections {
            let arrow = if connection.outbound { "->" } else { "<-" };
            let sealed = match connection.path {
                KERNEL => "unencrypted",
                _ if connection.cipher.is_empty() => "-",
                _ => "encrypted",
            };
            let line = format!(
                "{arrow} {:<21} {:<11} {sealed:<11} {:<10} {:<24} {}",
                connection.address,
                connection.state,
                connection.path,
                connection.peer.to_string(),
                connection.attributes().join(" "),
            );
            writeln!(f, "{}", trimmed(&line))?;
            if let Some(problem) = &connection.problem {
                writeln!(f, "   {problem}")?;
            }
            for way in better(connection.path, &connection.ways) {
                writeln!(f, "   {way}")?;
            }
        }
        for reached in &self.over_others {
            let state = if reached.path == "none" { "pending" } else { "established" };
            let sealed = if reached.cipher.is_empty() { "-" } else { "encrypted" };
            let line = format!(
                "~> {:<21} {state:<11} {sealed:<11} {:<10} {:<24} {}",
                "-",
                reached.path,
                reached.peer.to_string(),
                reached.attributes().join(" "),
            );
            writeln!(f, "{}", trimmed(&line))?;
            for way in better(reached.path, &reached.ways) {
                writeln!(f, "   {way}")?;
            }
        }
        for target in &self.targets {
            let line = format!("-> {:<21} {:<11} {}", target.target, target.state, target.info());
            writeln!(f, "{}", trimmed(&line))?;
        }
        Ok(())
    }
}

impl Connection {
    fn attributes(&self) -> Vec<String> {
        let other = self.data_address.as_ref().filter(|address| **address != self.address);
        let mut attributes = about_session(&self.cipher, self.round_trip_micros);
        attributes.extend(over(&self.relay));
        attributes.extend(other.map(|address| format!("udp={address}")));
        attributes.extend(about_traffic(self.sent_bytes, self.received_bytes));
        attributes
    }
}

impl Reached {
    fn attributes(&self) -> Vec<String> {
        let mut attributes = about_session(&self.cipher, self.round_trip_micros);
        attributes.extend(over(&self.relay));
        attributes.extend(about_traffic(self.sent_bytes, self.received_bytes));
        attributes
    }
}

fn about_session(cipher: &str, round_trip_micros: u64) -> Vec<String> {
    let cipher = (!cipher.is_empty()).then(|| format!("cipher={cipher}"));
    let round_trip =
        (round_trip_micros > 0).then(|| format!("rtt={}.{:03}ms", round_trip_micros / 1000, round_trip_micros % 1000));
    cipher.into_iter().chain(round_trip).collect()
}

fn over(relay: &str) -> Option<String> {
    (!relay.is_empty()).then(|| format!("over={relay}"))
}

fn about_traffic(sent: u64, received: u64) -> impl Iterator<Item = String> {
    let counts = [("sent", sent), ("received", received)].into_iter().filter(|(_, bytes)| *bytes > 0);
    counts.map(|(key, bytes)| format!("{key}={}", size(bytes).replace(' ', "")))
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {}", self.path)?;
        if let Some(address) = &self.data_address {
            write!(f, " {address}")?;
        }
        if !self.relay.is_empty() {
            write!(f, " over {}", self.relay)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for target in &self.targets {
            writeln!(f, "{}", trimmed(&format!("{:<24} {:<11} {}", target.target, target.state, target.info())))?;
        }
        Ok(())
    }
}
