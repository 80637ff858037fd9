//! `status connections`, `status targets`.

use std::fmt;

use serde::Serialize;
use weft_proto::router::v1 as pb;

use super::{Identity, Problem, endpoint, size, trimmed};

/// All connections of this host, and the targets that are not connected.
#[derive(Debug, Serialize)]
pub struct Connections {
    /// Connections, in the router's order.
    pub connections: Vec<Connection>,
    /// Targets without a connection.
    pub targets: Vec<Target>,
}

/// One connection.
#[derive(Debug, Serialize)]
pub struct Connection {
    /// The peer at the other end.
    pub peer: Identity,
    /// Where the control connection goes.
    pub address: String,
    /// Whether this host dialled.
    pub outbound: bool,
    /// "established", or "pending" while data does not pass yet.
    pub state: &'static str,
    /// How data goes: "direct-udp" or "none".
    pub path: &'static str,
    /// Where datagrams go; absent without a direct path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_address: Option<String>,
    /// What seals the data; empty without a session.
    pub cipher: String,
    /// Round trip of the data path, in microseconds; 0 while unknown.
    pub round_trip_micros: u64,
    /// Bytes of data sent.
    pub sent_bytes: u64,
    /// Bytes of data received.
    pub received_bytes: u64,
    /// Completed key agreements.
    pub rekeys: u64,
    /// How long the connection has lasted, in seconds.
    pub age_seconds: u64,
    /// Why it is not as good as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// One target.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
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
            connections: status.connections.iter().map(Connection::from).collect(),
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

impl From<&pb::Connection> for Connection {
    fn from(connection: &pb::Connection) -> Self {
        Self {
            peer: Identity::new(connection.peer_name.as_ref(), &connection.name, &connection.nickname),
            address: connection.endpoint.as_ref().map(endpoint).unwrap_or_default(),
            outbound: connection.outbound,
            state: state(connection.state()),
            path: match connection.path() {
                pb::PathKind::Unspecified | pb::PathKind::None => "none",
                pb::PathKind::DirectUdp => "direct-udp",
                pb::PathKind::Relay => "relay",
                pb::PathKind::Stream => "stream",
            },
            data_address: connection.data_endpoint.as_ref().map(endpoint),
            cipher: connection.cipher.clone(),
            round_trip_micros: connection.round_trip_micros,
            sent_bytes: connection.sent_bytes,
            received_bytes: connection.received_bytes,
            rekeys: connection.rekeys,
            age_seconds: connection.age_seconds,
            problem: connection.problem.as_ref().map(Into::into),
        }
    }
}

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
            let sealed = if connection.cipher.is_empty() { "-" } else { "encrypted" };
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
        let mut attributes = Vec::new();
        if !self.cipher.is_empty() {
            attributes.push(format!("cipher={}", self.cipher));
        }
        if self.round_trip_micros > 0 {
            attributes.push(format!("rtt={}.{:03}ms", self.round_trip_micros / 1000, self.round_trip_micros % 1000));
        }
        if let Some(address) = self.data_address.as_ref().filter(|address| **address != self.address) {
            attributes.push(format!("udp={address}"));
        }
        for (key, bytes) in [("sent", self.sent_bytes), ("received", self.received_bytes)] {
            if bytes > 0 {
                attributes.push(format!("{key}={}", size(bytes).replace(' ', "")));
            }
        }
        attributes
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
