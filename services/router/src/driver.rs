//! The loop that joins the cores with their surroundings: whatever happens goes in here, whatever is decided goes out.
//!
//! One task owns the mesh, the key agreements and what is derived of them. Others reach it by [`Command`]s with a place for
//! the answer, connections by events; it waits for nobody but the packet path's queue of commands.

mod attachments;
mod forwarding;
mod handle;
mod paths;
mod problems;
mod saves;
mod subscriptions;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use weft_proto::ipam::v1::RingInfo;
use weft_router_core::{
    gossip::Entry,
    handshake::Passwords,
    mesh::{ATTACHMENTS_CHANNEL, ConnectionId, DataLink, Event, Introduced, LINKS_CHANNEL, Mesh, PeerView, Problem},
    session::agreement::Agreement,
};
use weft_service::{Shutdown, Store};
use weft_types::MacAddress;

pub use self::{
    attachments::Attachment,
    handle::{Command, DriverHandle, Revoked, Stopping},
    subscriptions::{Reachable, Update},
    view::{DataView, Located, ProblemView, Status},
};
use self::{
    attachments::Attachments,
    paths::Paths,
    problems::Problems,
    saves::{Content, Reply, Saves},
    subscriptions::Subscriptions,
};
use crate::{
    admitted::Revocations,
    control::{Connected, Control, ControlEvent, Outgoing},
    dataplane::{self, DataPlaneHandle},
    exposed::{self, Exposed},
    identity::Identity,
    kept_targets::KeptTargets,
    kernel::{Exposure, Kernel},
    trusted::TrustedHandle,
};

/// Commands that may wait for the driver; who sends more waits.
const COMMANDS: usize = 256;
/// How often problems are looked for, to be logged and to have an age.
const TICK: Duration = Duration::from_secs(1);
/// How long goodbyes may take at the end.
const GOODBYE_DEADLINE: Duration = Duration::from_millis(500);

/// File with the targets, as changed at run time.
pub const TARGETS_FILE: &str = "targets.json";
/// File with the channels that this host publishes on.
pub const CHANNELS_FILE: &str = "channels.json";

/// File with the host's own addresses on the overlay.
pub const EXPOSED_FILE: &str = "exposed.json";

/// Channel and key under which ipam publishes the ring, whose id peers compare when they meet.
const RING: (&str, &[u8]) = ("ring", b"ring");

/// The TAP device was deleted under the packet path, which nothing but a new start gives another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the TAP device was deleted")]
pub struct TapLost;

/// What the driver starts with.
#[derive(Debug)]
pub struct Parts {
    /// Who is in the mesh.
    pub mesh: Mesh,
    /// Keys for data.
    pub agreement: Agreement,
    /// Key and generation of this peer.
    pub identity: Identity,
    /// Targets that the configuration names.
    pub configured_targets: Vec<String>,
    /// Where state is kept.
    pub store: Store,
    /// Opens connections.
    pub control: Control,
    /// What happens on connections.
    pub control_events: mpsc::Receiver<ControlEvent>,
    /// The packet path.
    pub data_plane: DataPlaneHandle,
    /// What the packet path reports.
    pub data_events: mpsc::Receiver<dataplane::Event>,
    /// The owner of kernel network state.
    pub kernel: Kernel,
    /// What keeps the ways to trusted peers.
    pub trusted: TrustedHandle,
    /// Attachments of this host's containers.
    pub attachments: Vec<Attachment>,
    /// The host's own addresses, and what of them the kernel has.
    pub exposed: (Exposed, Vec<Exposure>),
    /// Addresses that the host has on the overlay for services, as far as the kernel has them.
    pub held: Vec<IpNet>,
    /// What is wrong with services.
    pub services: watch::Receiver<Vec<Problem>>,
    /// Bridge that the host has them on, and its address.
    pub bridge: (String, MacAddress),
    /// Why metrics are not served, if they are not.
    pub metrics_problem: watch::Receiver<Option<Problem>>,
}

/// Starts the driver. It ends after `shutdown`, by [`TapLost`], or when its task panics: then the service must end too.
pub fn spawn(parts: Parts, shutdown: Shutdown) -> (DriverHandle, tokio::task::JoinHandle<Result<(), TapLost>>) {
    let (commands, command_queue) = mpsc::channel(COMMANDS);
    let (peer_sender, peers) = watch::channel(Vec::new());
    let (subnets, wanted_subnets) = watch::channel(BTreeSet::new());
    tokio::spawn(keep_subnets(parts.kernel.clone(), wanted_subnets));
    let local = parts.mesh.local().peer;
    let (exposed, in_effect) = parts.exposed;
    let mut driver = Driver {
        mesh: parts.mesh,
        agreement: parts.agreement,
        identity: parts.identity,
        configured_targets: parts.configured_targets,
        saves: Saves::new(parts.store),
        control: parts.control,
        kernel: parts.kernel,
        trusted: parts.trusted,
        connections: BTreeMap::new(),
        refused: BTreeMap::new(),
        paths: Paths::new(local, parts.data_plane),
        attachments: Attachments::new(parts.attachments),
        exposed,
        in_effect,
        held: parts.held,
        bridge: parts.bridge,
        services: parts.services,
        subscriptions: Subscriptions::default(),
        problems: Problems::default(),
        metrics_problem: parts.metrics_problem,
        peers: peer_sender,
        subnets,
    };
    driver.set_host();
    let task = tokio::spawn(driver.run(command_queue, parts.control_events, parts.data_events, shutdown));
    (DriverHandle { commands, peers }, task)
}

/// Reads the clock, for all that the cores decide by time.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[derive(Debug)]
struct Driver {
    mesh: Mesh,
    agreement: Agreement,
    identity: Identity,
    configured_targets: Vec<String>,
    saves: Saves,
    control: Control,
    kernel: Kernel,
    trusted: TrustedHandle,
    connections: BTreeMap<ConnectionId, Outgoing>,
    /// Who failed to connect with us lately.
    refused: BTreeMap<IpAddr, problems::Refused>,
    paths: Paths,
    attachments: Attachments,
    exposed: Exposed,
    /// What the kernel has of it.
    in_effect: Vec<Exposure>,
    /// Addresses that the host has for services alone.
    held: Vec<IpNet>,
    bridge: (String, MacAddress),
    /// What is wrong with services.
    services: watch::Receiver<Vec<Problem>>,
    subscriptions: Subscriptions,
    problems: Problems,
    metrics_problem: watch::Receiver<Option<Problem>>,
    peers: watch::Sender<Vec<PeerView>>,
    /// Subnets that containers of this host are in.
    subnets: watch::Sender<BTreeSet<IpNet>>,
}

/// What follows from what has just happened, done once however often it was asked for.
#[derive(Debug, Default)]
struct Dirty {
    forwarding: bool,
    reachability: bool,
    peers: bool,
}

impl Driver {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut control_events: mpsc::Receiver<ControlEvent>,
        mut data_events: mpsc::Receiver<dataplane::Event>,
        shutdown: Shutdown,
    ) -> Result<(), TapLost> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.publish_attachments(clock());
        self.drain(clock(), Dirty { forwarding: true, reachability: true, peers: true }).await;
        let outcome = loop {
            let timeout =
                [self.mesh.poll_timeout().map(|(at, _)| at), self.agreement.poll_timeout(), self.paths.poll_timeout()];
            let wake = timeout.into_iter().flatten().min().unwrap_or_else(|| clock() + TICK);
            tokio::select! {
                () = shutdown.requested() => break Ok(()),
                Some(event) = control_events.recv() => self.handle_control(event, clock()),
                Some(event) = data_events.recv() => if let Err(lost) = self.handle_data(event, clock()).await {
                    break Err(lost);
                },
                Some(command) = commands.recv() => self.handle_command(command, clock()),
                () = self.saves.written() => {}
                _ = tick.tick() => {
                    self.saves.retry();
                    self.look_for_problems(clock());
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            let now = clock();
            self.mesh.handle_timeout(now);
            self.agreement.handle_timeout(now);
            self.drain(now, Dirty::default()).await;
            self.paths.handle_timeout(&self.mesh, now).await;
        };
        self.say_goodbye(control_events).await;
        outcome
    }

    /// Tells all neighbours that we stop, and waits until they were told and all is on disk.
    async fn say_goodbye(mut self, mut control_events: mpsc::Receiver<ControlEvent>) {
        let now = clock();
        let mut open = self.connections.len();
        self.mesh.stop(now);
        self.drain(now, Dirty::default()).await;
        let told = async {
            while open > 0 {
                match control_events.recv().await {
                    Some(ControlEvent::Closed { .. }) => open -= 1,
                    Some(_) => {}
                    None => break,
                }
            }
        };
        // Whoever was not told by then notices by itself.
        let _ = tokio::time::timeout(GOODBYE_DEADLINE, told).await;
        self.saves.finish().await;
    }

    fn handle_control(&mut self, event: ControlEvent, now: Instant) {
        match event {
            ControlEvent::Introduce { random, remote, reply } => {
                // Nobody waits any more if the connection broke meanwhile.
                let _ = reply.send(self.mesh.introduction(random, remote));
            }
            ControlEvent::Connected(connected) => {
                let Connected {
                    connection,
                    peer,
                    introduction,
                    local_random,
                    remote,
                    dial,
                    password,
                    outgoing,
                    stream,
                } = *connected;
                self.refused.remove(&remote.ip());
                self.connections.insert(connection, outgoing);
                self.paths.add_stream(connection, stream);
                let introduced = Introduced { peer, introduction, local_random, remote, dial, password };
                self.mesh.handle_connected(connection, introduced, now);
            }
            ControlEvent::DialFailed { dial, problem } => {
                tracing::debug!(reason = problem.reason, message = problem.message, "a dial failed");
                self.mesh.handle_dial_failed(dial, problem, now);
            }
            ControlEvent::Refused { remote, problem } => self.note_refused(remote, problem, now),
            ControlEvent::Message { connection, message } => {
                let outcome = match message {
                    Ok(message) => self.mesh.handle_message(connection, message, now),
                    Err(error) => {
                        self.mesh.handle_protocol_error(connection, &error, now);
                        Err(error)
                    }
                };
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a peer breaks the protocol");
                }
            }
            ControlEvent::Transmitted { connection, count } => {
                for _ in 0..count {
                    self.mesh.handle_transmitted(connection, now);
                }
            }
            ControlEvent::Closed { connection, problem } => {
                self.connections.remove(&connection);
                self.mesh.handle_disconnected(connection, problem, now);
            }
        }
    }

    fn handle_command(&mut self, command: Command, now: Instant) {
        // Whoever asked may have gone meanwhile: what is done stays done.
        match command {
            Command::Status(reply) => {
                let _ = reply.send(self.status(now));
            }
            Command::AddTargets { targets, replace, reply } => {
                self.mesh.add_targets(targets, replace, now);
                self.saves.save(self.kept_targets(), Some(Reply::Done(reply)));
            }
            Command::RemoveTargets { texts, reply } => {
                let unknown = self.mesh.remove_targets(&texts, now);
                self.saves.save(self.kept_targets(), Some(Reply::Unknown(reply, unknown)));
            }
            Command::Revoke { names, reply } => self.revoke(&names, reply, now),
            Command::ChangePassword { given, reply } => {
                let _ = reply.send(self.change_password(given, now));
            }
            Command::Publish { channel, snapshot, entries, reply } => {
                // A snapshot without a ring means that there is none; a change without it says nothing.
                let names_ring = snapshot || entries.iter().any(|entry| entry.key == RING.1);
                let ring = (channel == RING.0 && names_ring).then(|| ring_id(&entries));
                let outcome = self.mesh.publish(&channel, snapshot, entries, now);
                if let Some(ring) = ring.filter(|_| outcome.is_ok()) {
                    self.mesh.set_ring_id(ring, now);
                }
                let _ = reply.send(outcome);
            }
            Command::Subscribe { channel, reply } => {
                let entries = self.mesh.channel(&channel);
                let reachable = Reachable::of(&self.mesh);
                let local = self.mesh.local().peer;
                let _ = reply.send(self.subscriptions.add(channel, local, entries, reachable));
            }
            Command::Send { channel, destination, payload, reply } => {
                let _ = reply.send(self.mesh.send(&channel, destination, payload, now));
            }
            Command::Attach { attachment, reply } => {
                if self.attachments.insert(attachment) {
                    self.publish_attachments(now);
                }
                let _ = reply.send(());
            }
            Command::Detach { container, addresses, reply } => {
                let removed = self.attachments.remove(&container, &addresses);
                if !removed.is_empty() {
                    self.publish_attachments(now);
                }
                let _ = reply.send(removed);
            }
            Command::Exposed(reply) => {
                let _ = reply.send(self.exposed.clone());
            }
            Command::SetExposed { exposed, in_effect, reply } => {
                self.exposed = exposed;
                self.in_effect = in_effect;
                self.set_host();
                self.publish_attachments(now);
                self.saves.save(Content::Exposed(self.exposed.clone()), Some(Reply::Done(reply)));
            }
            Command::SetHeld { addresses, reply } => {
                self.held = addresses;
                self.set_host();
                self.publish_attachments(now);
                let _ = reply.send(());
            }
            Command::Attachments(reply) => {
                let _ = reply.send(self.attachments.list());
            }
            Command::Locations(reply) => {
                let _ = reply.send(self.locations());
            }
        }
    }

    async fn handle_data(&mut self, event: dataplane::Event, now: Instant) -> Result<(), TapLost> {
        match event {
            dataplane::Event::PathUp { peer, via, round_trip } => {
                self.paths.set_path(peer, Some((via, round_trip)), now);
            }
            dataplane::Event::LinkChanged { peer, link } => {
                self.paths.set_link(peer, link, now);
                let link = link.map(|link| DataLink { stream: link.stream, cost: link.cost });
                self.mesh.handle_data_link(peer, link, now);
            }
            dataplane::Event::Observed { peer, endpoint } => {
                self.paths.set_observed(peer, Some(endpoint));
                self.mesh.handle_data_endpoints(self.paths.observed(), now);
            }
            dataplane::Event::PathDown { peer, .. } => {
                self.paths.set_path(peer, None, now);
                if self.mesh.is_reachable(peer) {
                    // The peer may have lost the session.
                    self.agreement.rekey(peer, now);
                } else {
                    self.paths.remove(peer).await;
                }
            }
            dataplane::Event::RekeyWanted { peer } => self.agreement.rekey(peer, now),
            dataplane::Event::SessionExpired { local_index } => self.agreement.release(local_index),
            dataplane::Event::TapLost => return Err(TapLost),
        }
        Ok(())
    }

    /// Carries out all that the cores have decided.
    async fn drain(&mut self, now: Instant, mut dirty: Dirty) {
        loop {
            let mut quiet = true;
            while let Some(event) = self.mesh.poll_event() {
                quiet = false;
                self.handle_mesh_event(event, &mut dirty, now).await;
            }
            while let Some(transmit) = self.mesh.poll_transmit() {
                quiet = false;
                let connection = transmit.connection;
                let sent = self.connections.get(&connection).is_none_or(|outgoing| outgoing.send(transmit.message));
                if !sent && self.connections.remove(&connection).is_some() {
                    self.mesh.handle_disconnected(connection, None, now);
                }
            }
            while let Some((peer, message)) = self.agreement.poll_transmit() {
                quiet = false;
                if let Err(error) = self.mesh.send_session_message(peer, message, now) {
                    tracing::debug!(%peer, %error, "a message of the key agreement was not sent");
                }
            }
            while let Some(agreed) = self.agreement.poll_agreed() {
                quiet = false;
                self.paths.install(agreed).await;
            }
            if std::mem::take(&mut dirty.reachability) {
                quiet = false;
                self.handle_reachability(now).await;
                dirty.forwarding = true;
            }
            if quiet {
                break;
            }
        }
        if dirty.forwarding {
            self.update_forwarding().await;
        }
        if dirty.peers {
            let peers = self.mesh.peers();
            self.peers.send_if_modified(|known| {
                let changed = *known != peers;
                *known = peers;
                changed
            });
        }
    }

    async fn handle_mesh_event(&mut self, event: Event, dirty: &mut Dirty, now: Instant) {
        match event {
            Event::Dial { dial, address, .. } => self.control.dial(dial, address),
            Event::Close { connection, goodbye, problem } => {
                if let Some(problem) = problem {
                    tracing::debug!(reason = problem.reason, message = problem.message, "closing a connection");
                }
                if let Some(outgoing) = self.connections.remove(&connection) {
                    outgoing.close(goodbye);
                }
            }
            Event::PeerConnected { peer, remote, data_endpoint } => {
                let identity = self.mesh.identity(peer);
                tracing::info!(%peer, name = identity.name, nickname = identity.nickname, %remote, "connected");
                self.paths.set_connected(peer, Some(data_endpoint), now).await;
                self.agreement.add_peer(peer, now);
                dirty.forwarding = true;
            }
            Event::PeerDisconnected { peer } => {
                let identity = self.mesh.identity(peer);
                tracing::info!(%peer, name = identity.name, nickname = identity.nickname, "disconnected");
                self.paths.set_connected(peer, None, now).await;
                dirty.forwarding = true;
            }
            Event::ReachabilityChanged => {
                dirty.reachability = true;
                dirty.peers = true;
            }
            Event::ChannelChanged { channel, origin, entries } => {
                dirty.peers = true;
                dirty.forwarding |= channel == ATTACHMENTS_CHANNEL;
                if channel == LINKS_CHANNEL {
                    self.paths.set_links(origin, &self.mesh.links_of(origin), now);
                }
                self.subscriptions.update(&channel, origin, entries);
            }
            Event::IncomingMessage { channel, source, payload } => {
                self.subscriptions.message(&channel, source, payload);
            }
            Event::IncomingSession { source, message } => {
                if let Err(error) = self.agreement.handle_message(source, &message, now) {
                    tracing::debug!(peer = %source, %error, "a message of the key agreement was dropped");
                }
            }
            Event::PeerRevoked { peer } => {
                let identity = self.mesh.identity(peer);
                tracing::warn!(%peer, name = identity.name, nickname = identity.nickname, "the key was revoked");
                self.agreement.remove_peer(peer);
                self.paths.set_link(peer, None, now);
                self.paths.set_links(peer, &[], now);
                self.paths.remove(peer).await;
                dirty.reachability = true;
                dirty.forwarding = true;
                dirty.peers = true;
            }
            Event::OldPasswordDropped => {
                if let Some(passwords) = self.control.passwords() {
                    self.control.set_passwords(passwords.without_old());
                }
                tracing::info!("all hosts have the new password, and the old one is no longer taken");
            }
            Event::RevocationsChanged => self.saves.save(Content::Revocations(Revocations::of(&self.mesh)), None),
            Event::KnownPeersChanged => self.saves.save(Content::KnownPeers(self.mesh.known_peers()), None),
            Event::KnownChannelsChanged { channels } => {
                // What fails is shown, and tried again.
                self.saves.save(Content::Channels(channels), None);
            }
            Event::GenerationRaised { generation } => {
                self.identity.generation = self.identity.generation.max(generation);
                self.saves.save(Content::Identity(self.identity.clone()), None);
            }
        }
    }

    /// Revokes keys, and answers when that is on disk.
    fn revoke(&mut self, names: &[String], reply: oneshot::Sender<anyhow::Result<Revoked>>, now: Instant) {
        match self.mesh.revoke(names, now) {
            Ok(peers) => {
                let revoked = Revoked { peers, next: self.mesh.after_revocation() };
                let content = Content::Revocations(Revocations::of(&self.mesh));
                self.saves.save(content, Some(Reply::Revoked(reply, revoked)));
            }
            // Whoever asked may have gone meanwhile.
            Err(error) => drop(reply.send(Err(error.into()))),
        }
    }

    /// Goes on with other passwords, and tells whether they differ from those before.
    fn change_password(&mut self, given: Passwords, now: Instant) -> anyhow::Result<bool> {
        let Some(present) = self.control.passwords() else {
            bail!("this router runs without a password, which does not change while it runs: start it anew with one");
        };
        let next = present.followed_by(given)?;
        let changed = next != present;
        if changed {
            tracing::info!(old = next.has_old(), "the password is another from now on");
        }
        self.mesh.set_password_marks(next.marks(), now);
        self.control.set_passwords(next);
        Ok(changed)
    }

    /// Returns the targets, for the next start.
    fn kept_targets(&self) -> Content {
        Content::Targets(KeptTargets::new(&self.configured_targets, self.mesh.target_texts()))
    }

    /// Starts and ends key agreements as peers come and go.
    async fn handle_reachability(&mut self, now: Instant) {
        let peers = self.mesh.peers();
        let endpoints = self.paths.update_peers(&peers).await;
        self.agreement.set_endpoints(endpoints);
        self.paths.update_streams(&self.mesh, now).await;
        for peer in self.paths.take_appeared(&self.mesh) {
            self.agreement.add_peer(peer, now);
        }
        for peer in self.paths.take_vanished(&self.mesh) {
            self.agreement.remove_peer(peer);
            if !self.paths.is_up(peer) {
                self.paths.remove(peer).await;
            }
        }
        self.subscriptions.reachability(&Reachable::of(&self.mesh));
    }

    async fn update_forwarding(&mut self) {
        let local = self.mesh.local().peer;
        let origins = self.mesh.channel(ATTACHMENTS_CHANNEL);
        let reached = |peer| self.mesh.is_reachable(peer) || (self.paths.is_up(peer) && !self.mesh.is_revoked(peer));
        let table = Arc::new(forwarding::table(local, &origins, reached));
        // Before anything of theirs can come.
        self.kernel.set_remote(table.sharing());
        let pairs = self.mesh.trusts().filter_map(|(peer, trust)| Some((peer, trust.ok()?)));
        self.trusted.update(pairs.collect(), Arc::clone(&table));
        self.paths.set_forwarding(table).await;
    }

    /// Notes what all peers are to hear of the host's own addresses.
    fn set_host(&mut self) {
        let addresses = self.in_effect.iter().map(|exposure| exposure.address).chain(self.held.iter().copied());
        let host = exposed::attachment(&self.bridge.0, self.bridge.1, addresses.collect());
        self.attachments.set_host(host, self.in_effect.iter().any(|exposure| !exposure.masquerade));
    }

    fn publish_attachments(&mut self, now: Instant) {
        if let Err(error) = self.mesh.publish_attachments(self.attachments.entries(), now) {
            tracing::error!(%error, "failed to publish the attachments");
        }
        let subnets = self.attachments.subnets();
        self.subnets.send_if_modified(|known| {
            let changed = *known != subnets;
            *known = subnets;
            changed
        });
    }
}

/// Has the name server's answers routed as subnets come and go.
async fn keep_subnets(kernel: Kernel, mut subnets: watch::Receiver<BTreeSet<IpNet>>) {
    while subnets.changed().await.is_ok() {
        let current = subnets.borrow_and_update().clone();
        if let Err(error) = kernel.set_subnets(current).await {
            tracing::warn!(error = %format_args!("{error:#}"), "failed to route the name server's answers");
            tokio::time::sleep(TICK).await;
            subnets.mark_changed();
        }
    }
}

/// Returns the id of the ring, if these entries name one.
fn ring_id(entries: &[Entry]) -> Option<[u8; 16]> {
    let value = entries.iter().find(|entry| entry.key == RING.1)?.value.clone()?;
    let ring: RingInfo = prost::Message::decode(value).ok()?;
    ring.ring_id.try_into().ok()
}
