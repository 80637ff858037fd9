//! Processes: how they start and end, and what they want.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use rand::Rng as _;
use weft_router_core::{
    mesh::{ControlMessage, Event, Mesh, MeshConfig, Timing},
    target::DialAddress,
};

use super::{CHANNEL, MAX_WAKES, Process, What, World, address};
use crate::gossip::{Violation, model::View, network::Item};

impl World {
    pub(super) fn start(&mut self, host: usize) -> Result<(), Violation> {
        let seed = self.random.random();
        let instance = self.random.random();
        let now = self.start + self.now;
        let state = &mut self.hosts[host];
        if state.process.is_some() {
            return Ok(());
        }
        state.disk.0 += 1;
        state.life += 1;
        state.powered = true;
        let config = MeshConfig {
            local: state.peer,
            name: format!("host{host}"),
            nickname: format!("host{host}"),
            version: "1".to_owned(),
            instance,
            generation: state.disk.0,
            listen_port: address(host).port(),
            address_range: Ipv4Net::new_assert([10, 32, 0, 0].into(), 12),
            discovery: true,
            connection_limit: 100,
            known_channels: state.disk.1.clone(),
            password_marks: Vec::new(),
            revocations: state.revocations.0.clone(),
            told: state.revocations.1.clone(),
            known_peers: BTreeSet::new(),
            trusted_subnets: Vec::new(),
            seed,
            timing: Timing::default(),
        };
        let mesh = Mesh::new(config, state.targets.clone(), now);
        state.process = Some(Process { mesh, view: View::default(), wake: None, wakes: 0 });
        let life = state.life;
        let delay = self.delay(50, 2500);
        self.at(delay, What::PublishAll { host, life });
        self.drain(host)
    }

    pub(super) fn crash(&mut self, host: usize) {
        let power = self.random.random_bool(0.4);
        let disk_lost = self.random.random_bool(0.2);
        let state = &mut self.hosts[host];
        if state.process.take().is_none() {
            return;
        }
        self.summary.crashes += 1;
        state.powered = !power;
        if disk_lost {
            state.disk = (0, BTreeSet::new());
            state.revocations = (Vec::new(), None);
            self.model.disk_lost(state.peer);
        }
        let life = state.life;
        let open: Vec<(u64, usize)> =
            self.pipes.iter().filter_map(|(pipe, state)| Some((*pipe, state.end_of(host, life)?))).collect();
        for (pipe, end) in open {
            self.pipes.get_mut(&pipe).expect("pipes stay").ends[end].open = false;
            if !power {
                self.send(pipe, end, Item::End);
            }
        }
        let delay = self.delay(100, 6000);
        self.at(delay, What::Start { host });
    }

    /// Does what a host's mesh wants, and sees to its waking.
    pub(super) fn drain(&mut self, host: usize) -> Result<(), Violation> {
        let life = self.hosts[host].life;
        loop {
            let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
            if let Some(transmit) = process.mesh.poll_transmit() {
                self.count(&transmit.message);
                let pipe = transmit.connection.0;
                if let Some(end) = self.pipes.get(&pipe).and_then(|pipe| pipe.end_of(host, life)) {
                    self.send(pipe, end, Item::Message { message: transmit.message, counted: true });
                }
            } else if let Some(event) = process.mesh.poll_event() {
                self.act(host, life, event)?;
            } else {
                break;
            }
        }
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        let due = process.mesh.poll_timeout().map(|(at, _)| at.saturating_duration_since(self.start));
        let due = due.map(|due| due.max(self.now));
        process.wakes = if due == Some(self.now) { process.wakes + 1 } else { 0 };
        if process.wakes > MAX_WAKES {
            return Err(Violation(format!("host {host} wants to be woken again and again")));
        }
        if process.wake != due {
            process.wake = due;
            if let Some(due) = due {
                self.at(due - self.now, What::Wake { host, life });
            }
        }
        Ok(())
    }

    fn act(&mut self, host: usize, life: u64, event: Event) -> Result<(), Violation> {
        match event {
            Event::Dial { dial, address: to, .. } => {
                let to = match to {
                    DialAddress::Endpoint(to) => (0..self.hosts.len()).find(|host| address(*host).ip() == to.ip()),
                    DialAddress::Name { .. } => None,
                };
                let lost = to.is_none_or(|to| to != host && self.barriers.between(host, to));
                let delay = if lost { self.delay(300, 1000) } else { self.delay(1, self.scenario.delay_millis) };
                self.at(delay, What::Accept { from: host, life, dial, to });
            }
            Event::Close { connection, goodbye, .. } => {
                if let Some(end) = self.pipes.get(&connection.0).and_then(|pipe| pipe.end_of(host, life)) {
                    self.pipes.get_mut(&connection.0).expect("pipes stay").ends[end].open = false;
                    if let Some(goodbye) = goodbye {
                        let message = ControlMessage::Goodbye(goodbye);
                        self.send(connection.0, end, Item::Message { message, counted: false });
                    }
                    self.send(connection.0, end, Item::End);
                }
            }
            Event::ChannelChanged { channel, origin, entries } if channel == CHANNEL => {
                let process = self.hosts[host].process.as_mut().expect("it spoke");
                let taken = process.view.take(origin, &entries, &self.model);
                taken.map_err(|violation| Violation(format!("host {host} at {:?}: {violation}", self.now)))?;
            }
            Event::RevocationsChanged => {
                let process = self.hosts[host].process.as_ref().expect("it spoke");
                self.hosts[host].revocations = (process.mesh.revocations(), process.mesh.told().cloned());
            }
            Event::KnownChannelsChanged { channels } => self.hosts[host].disk.1 = channels,
            Event::GenerationRaised { generation } => self.hosts[host].disk.0 = generation,
            Event::ChannelChanged { .. }
            | Event::KnownPeersChanged
            | Event::PeerRevoked { .. }
            | Event::OldPasswordDropped
            | Event::PeerConnected { .. }
            | Event::PeerDisconnected { .. }
            | Event::ReachabilityChanged
            | Event::IncomingMessage { .. }
            | Event::IncomingSession { .. } => {}
        }
        Ok(())
    }

    fn count(&mut self, message: &ControlMessage) {
        let count = match message {
            ControlMessage::Heartbeat { .. } => &mut self.traffic.heartbeats,
            ControlMessage::Digest(_) => &mut self.traffic.digests,
            ControlMessage::Vector { .. } => &mut self.traffic.vectors,
            ControlMessage::Delta(_) => &mut self.traffic.deltas,
            ControlMessage::Routed(_)
            | ControlMessage::Goodbye(_)
            | ControlMessage::Datagram(_)
            | ControlMessage::Unknown => &mut self.traffic.others,
        };
        *count += 1;
    }
}
