//! Hosts that are joined by pipes.

use std::time::Duration;

use super::*;

/// Hosts and the pipes between them. Messages cross at once, as bytes.
pub(super) struct Lab {
    pub(super) hosts: Vec<Mesh>,
    /// Marks of each host's passwords.
    pub(super) marks: Vec<Vec<PasswordMark>>,
    /// The two ends of each connection, by id.
    pub(super) pipes: BTreeMap<ConnectionId, [usize; 2]>,
    /// Connections that swallow everything.
    pub(super) cut: BTreeSet<ConnectionId>,
    pub(super) events: Vec<Vec<Event>>,
    pub(super) closed: Vec<(ConnectionId, usize, GoodbyeReason, String)>,
    pub(super) next: u64,
    pub(super) now: Instant,
}

pub(super) fn peer(number: usize) -> PeerName {
    PeerName::from_public_key([number as u8 + 1; 32])
}

pub(super) fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8 + 1], 6783))
}

pub(super) fn config(number: usize) -> MeshConfig {
    MeshConfig {
        local: peer(number),
        name: format!("peer{number}"),
        nickname: format!("host{number}"),
        version: "test".to_owned(),
        instance: number as u64 + 100,
        generation: 1,
        listen_port: 6783,
        address_range: "10.32.0.0/12".parse().expect("a range"),
        discovery: false,
        connection_limit: 20,
        known_channels: BTreeSet::new(),
        password_marks: Vec::new(),
        revocations: Vec::new(),
        told: None,
        known_peers: BTreeSet::new(),
        trusted_subnets: Vec::new(),
        seed: number as u64,
        timing: Timing::default(),
    }
}

impl Lab {
    #[expect(clippy::disallowed_methods, reason = "any instant will do; only differences count")]
    pub(super) fn new(configs: impl IntoIterator<Item = MeshConfig>) -> Self {
        let now = Instant::now();
        let configs: Vec<MeshConfig> = configs.into_iter().collect();
        let marks = configs.iter().map(|config| config.password_marks.clone()).collect();
        let hosts: Vec<Mesh> = configs.into_iter().map(|config| Mesh::new(config, Vec::new(), now)).collect();
        Self {
            pipes: BTreeMap::new(),
            cut: BTreeSet::new(),
            events: hosts.iter().map(|_| Vec::new()).collect(),
            closed: Vec::new(),
            next: 1,
            now,
            hosts,
            marks,
        }
    }

    /// Connects two hosts and returns the connection. Its order is `order`.
    pub(super) fn open(&mut self, from: usize, to: usize, order: u64) -> ConnectionId {
        let connection = ConnectionId(self.next);
        self.next += 1;
        self.pipes.insert(connection, [from, to]);
        let (random, other_random) = (77, 77 ^ order);
        let there = self.hosts[to].introduction(other_random, address(from));
        let here = self.hosts[from].introduction(random, address(to));
        let password = self.password(from, to);
        let introduced = |peer, introduction, local_random, remote, dial| Introduced {
            peer,
            introduction,
            local_random,
            remote,
            dial,
            password,
        };
        let (from_peer, to_peer) = (self.hosts[from].local().peer, self.hosts[to].local().peer);
        let dialled = introduced(to_peer, there, random, address(to), Some(DialId(self.next + 1000)));
        self.hosts[from].handle_connected(connection, dialled, self.now);
        self.hosts[to].handle_connected(
            connection,
            introduced(from_peer, here, other_random, address(from), None),
            self.now,
        );
        connection
    }

    /// Returns the password that two hosts use with each other.
    fn password(&self, from: usize, to: usize) -> Option<PasswordMark> {
        let (ours, theirs) = (&self.marks[from], &self.marks[to]);
        match ours.iter().find(|mark| theirs.contains(mark)) {
            Some(mark) => Some(*mark),
            None if ours.is_empty() && theirs.is_empty() => None,
            None => panic!("hosts {from} and {to} have no password in common"),
        }
    }

    /// Sends a message on a connection as a router would that does not follow the rules.
    pub(super) fn inject(&mut self, to: usize, connection: ConnectionId, message: ControlMessage) {
        // What it breaks shows in what becomes of the connection.
        let _ = self.hosts[to].handle_message(connection, message, self.now);
        self.settle();
    }

    pub(super) fn connect(&mut self, from: usize, to: usize) -> ConnectionId {
        let connection = self.open(from, to, 1 << 32);
        self.settle();
        connection
    }

    /// Lets everything happen that does not need time.
    pub(super) fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 1000, "the hosts never come to rest");
            let mut quiet = true;
            for host in 0..self.hosts.len() {
                while let Some(transmit) = self.hosts[host].poll_transmit() {
                    quiet = false;
                    self.hosts[host].handle_transmitted(transmit.connection, self.now);
                    self.carry(host, &transmit);
                }
                while let Some(event) = self.hosts[host].poll_event() {
                    quiet = false;
                    self.perform(host, event);
                }
            }
            if quiet {
                return;
            }
        }
    }

    pub(super) fn carry(&mut self, from: usize, transmit: &Transmit) {
        let Some(ends) = self.pipes.get(&transmit.connection) else { return };
        if self.cut.contains(&transmit.connection) {
            return;
        }
        let to = if ends[0] == from { ends[1] } else { ends[0] };
        let message = ControlMessage::decode(&transmit.message.encode()).expect("cores send what they understand");
        self.hosts[to].handle_message(transmit.connection, message, self.now).expect("cores follow the protocol");
    }

    pub(super) fn perform(&mut self, host: usize, event: Event) {
        if let Event::Close { connection, goodbye, .. } = &event {
            if let Some(goodbye) = goodbye {
                self.closed.push((*connection, host, goodbye.reason, goodbye.message.clone()));
                let message = ControlMessage::Goodbye(goodbye.clone());
                self.carry(host, &Transmit { connection: *connection, message });
            }
            self.disconnect(*connection, host);
        }
        self.events[host].push(event);
    }

    /// Takes a pipe away; the end that is not `known` to know it hears of it unless it is cut off.
    pub(super) fn disconnect(&mut self, connection: ConnectionId, known: usize) {
        if let Some(ends) = self.pipes.remove(&connection)
            && !self.cut.contains(&connection)
        {
            let other = if ends[0] == known { ends[1] } else { ends[0] };
            self.hosts[other].handle_disconnected(connection, None, self.now);
        }
    }

    /// Lets time pass, as far as the hosts' own timers go.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.settle();
            let due = self.hosts.iter().filter_map(Mesh::poll_timeout).map(|(due, _)| due).min();
            match due.filter(|due| *due <= end) {
                Some(due) => self.now = due.max(self.now),
                None => break,
            }
            for host in &mut self.hosts {
                host.handle_timeout(self.now);
            }
        }
        self.now = end;
        self.settle();
    }

    pub(super) fn reasons(&self) -> Vec<GoodbyeReason> {
        self.closed.iter().map(|(_, _, reason, _)| *reason).collect()
    }

    pub(super) fn connections(&self, host: usize) -> Vec<ConnectionId> {
        self.hosts[host].connections(self.now).into_iter().map(|view| view.connection).collect()
    }

    pub(super) fn publish(&mut self, host: usize, key: &'static str, value: Option<&'static str>) {
        let entry = Entry { key: key.into(), value: value.map(Bytes::from) };
        self.hosts[host].publish("names", false, vec![entry], self.now).expect("within limits");
    }

    pub(super) fn sees(&self, host: usize, origin: usize) -> Vec<(Bytes, Bytes)> {
        let all = self.hosts[host].channel("names");
        all.into_iter().find(|known| known.origin == peer(origin)).map(|known| known.entries).unwrap_or_default()
    }
}
