//! Two hosts as network namespaces, each with a bridge, a data plane and one container, joined by a veth pair.
//!
//! Namespaces live as long as their descriptors, so nothing is left behind however a test ends. Needs root.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command as Program,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::{runtime::Runtime, sync::mpsc};
use weft_router::dataplane::{
    Command, DataPlaneConfig, DataPlaneHandle, Event, Facility, RouteTable, Statistics, open_tap, spawn,
};
use weft_router_core::{
    forward::ForwardingTable,
    path::Via,
    session::{Cipher, EstablishedSession, SessionIndex, SessionKey},
};
use weft_types::{MacAddress, PeerName};

/// MTU of containers' interfaces.
pub(crate) const MTU: u16 = 1400;
/// How long anything that must happen may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A network namespace.
pub(crate) struct Namespace(OwnedFd);

impl Namespace {
    fn new() -> Self {
        let open = || -> io::Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        };
        let thread = std::thread::spawn(open);
        let namespace = Self(thread.join().expect("no panic").expect("needs root: cannot make a network namespace"));
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs a function on a thread inside.
    pub(crate) fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = || {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                function()
            };
            scope.spawn(inside).join().expect("no panic inside the namespace")
        })
    }

    /// Prepares a program that will run inside.
    pub(crate) fn program(&self, name: &str, arguments: &str) -> Program {
        let mut program = Program::new(name);
        program.args(arguments.split_whitespace());
        let descriptor = self.0.try_clone().expect("clone a descriptor");
        // SAFETY: between fork and exec only the system call setns is made.
        unsafe { program.pre_exec(move || setns(&descriptor, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)) };
        program
    }

    /// Runs a program inside and expects it to succeed.
    pub(crate) fn run(&self, name: &str, arguments: &str) -> String {
        let output =
            self.program(name, arguments).output().unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{name} {arguments}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs `ip` inside.
    pub(crate) fn ip(&self, arguments: &str) {
        self.run("ip", arguments);
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// One host with its container.
pub(crate) struct Host {
    /// Of the host.
    pub(crate) namespace: Namespace,
    /// Of the container.
    pub(crate) container: Namespace,
    /// The data plane.
    pub(crate) handle: DataPlaneHandle,
    /// What it said.
    pub(crate) events: mpsc::Receiver<Event>,
    /// 1 or 2.
    pub(crate) number: u8,
}

/// Both hosts.
pub(crate) struct Lab {
    /// Host 1 and host 2.
    pub(crate) hosts: [Host; 2],
    runtime: Runtime,
}

/// Polls a condition until it holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
        let now = Instant::now();
        assert!(now < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::yield_now();
    }
}

/// Returns the name of a host's peer.
pub(crate) fn peer(number: u8) -> PeerName {
    PeerName::from_public_key([number; 32])
}

/// Returns the MAC of a host's container.
pub(crate) fn mac(number: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, number])
}

/// Returns the addresses of a host's container.
pub(crate) fn addresses(number: u8) -> [IpAddr; 2] {
    [[10, 32, 0, number].into(), [0xfd10, 0, 0, 0, 0, 0, 0, u16::from(number)].into()]
}

/// Returns the forwarding table of a host.
pub(crate) fn table(number: u8) -> ForwardingTable {
    let other = 3 - number;
    ForwardingTable {
        macs: [(mac(other), peer(other))].into(),
        addresses: addresses(other).into_iter().map(|address| (address, mac(other))).collect(),
        subnets: [1, 2].map(|number| (mac(number), ["10.32.0.0/12".parse().expect("a subnet")].into())).into(),
        local_macs: [mac(number)].into(),
        local_addresses: addresses(number).into(),
        ..ForwardingTable::default()
    }
}

/// Returns where a host is reached on the underlay.
pub(crate) fn endpoint(number: u8, ipv6: bool) -> SocketAddr {
    let address: IpAddr =
        if ipv6 { [0xfd09, 0, 0, 0, 0, 0, 0, u16::from(number)].into() } else { [10, 9, 0, number].into() };
    (address, 6783).into()
}

/// Makes one end of a session; `initiator` is the number of the host that asked for it.
pub(crate) fn session(number: u8, initiator: u8, generation: u8) -> EstablishedSession {
    let key = |from: u8| SessionKey([from ^ (generation << 4); 32]);
    let other = 3 - number;
    EstablishedSession {
        peer: peer(other),
        local_index: SessionIndex(u32::from(generation) << 8 | u32::from(number)),
        remote_index: SessionIndex(u32::from(generation) << 8 | u32::from(other)),
        cipher: Cipher::Aes256Gcm,
        send_key: key(number),
        receive_key: key(other),
        initiator: number == initiator,
    }
}

impl Host {
    fn new(number: u8, masked: &[Facility]) -> Self {
        let (namespace, container) = (Namespace::new(), Namespace::new());
        let masked: BTreeSet<Facility> = masked.iter().copied().collect();
        namespace.ip("link add weft type bridge stp_state 0 forward_delay 0");
        namespace.ip("link set weft up mtu 1400");
        namespace.ip(&format!("link add vethwe type veth peer name ethwe netns {}", container.path()));
        container.ip(&format!("link set ethwe address {} mtu {MTU}", mac(number)));
        container.ip("link set ethwe up");
        let [v4, v6] = addresses(number);
        container.ip(&format!("addr add {v4}/12 dev ethwe"));
        container.ip(&format!("addr add {v6}/64 dev ethwe nodad"));
        namespace.ip("link set vethwe master weft up");
        let (handle, events) = namespace.enter(|| {
            // As after an earlier router, which had all facilities: the device is persistent.
            drop(open_tap("weft-tap", &BTreeSet::new()).expect("open the TAP"));
            let tap = open_tap("weft-tap", &masked).expect("open the TAP");
            spawn(DataPlaneConfig { tap, bind_address: None, port: 6783, mtu: MTU, local: peer(number), masked })
                .expect("start")
        });
        let queue = weft_router::dataplane::TAP_QUEUE_LENGTH;
        namespace.ip(&format!("link set weft-tap master weft mtu {MTU} txqueuelen {queue} up"));
        Self { namespace, container, handle, events, number }
    }

    fn join_underlay(&self) {
        let number = self.number;
        self.namespace.ip(&format!("addr add 10.9.0.{number}/24 dev u0"));
        self.namespace.ip(&format!("addr add fd09::{number}/64 dev u0 nodad"));
        self.namespace.ip("link set u0 up");
    }
}

impl Lab {
    /// Makes both hosts, each without the facilities that are masked, and waits until they reach each other.
    pub(crate) fn new(masked: &[Facility], ipv6: bool) -> Self {
        let mut lab = Self::unconnected(masked);
        for number in [1, 2] {
            lab.send(number, Command::InstallSession(session(number, 1, 1)));
        }
        for number in [1, 2] {
            // Its first probe finds the other's session.
            lab.settle(3 - number);
            let endpoints = vec![endpoint(3 - number, ipv6)];
            lab.send(number, Command::SetEndpoints { peer: peer(3 - number), endpoints });
        }
        for number in [1, 2] {
            let event = lab.event(number);
            assert!(
                matches!(event, Event::PathUp { via, .. } if via == Via::Direct(endpoint(3 - number, ipv6))),
                "{event:?}"
            );
        }
        lab
    }

    /// Makes both hosts with their forwarding tables, but without sessions and endpoints.
    pub(crate) fn unconnected(masked: &[Facility]) -> Self {
        let hosts = [1, 2].map(|number| Host::new(number, masked));
        let far = hosts[1].namespace.path();
        hosts[0].namespace.ip(&format!("link add u0 type veth peer name u0 netns {far}"));
        hosts.iter().for_each(Host::join_underlay);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let lab = Self { hosts, runtime };
        for number in [1, 2] {
            lab.send(number, Command::SetForwarding(Arc::new(table(number))));
        }
        lab
    }

    /// Returns a host by its number.
    pub(crate) fn host(&self, number: u8) -> &Host {
        &self.hosts[usize::from(number - 1)]
    }

    /// Gives a host's data plane a command.
    pub(crate) fn send(&self, number: u8, command: Command) {
        self.runtime.block_on(self.host(number).handle.send(command)).expect("it runs");
    }

    /// Waits until a host has done all that it was told.
    pub(crate) fn settle(&self, number: u8) {
        let routes = Arc::new(RouteTable::default());
        let replaced = Arc::downgrade(&routes);
        self.send(number, Command::SetRoutes(routes));
        self.send(number, Command::SetRoutes(Arc::default()));
        wait_for("all commands are done", || replaced.strong_count() == 0);
    }

    /// Waits for the next event of a host but for those that only tell more of a path.
    pub(crate) fn event(&mut self, number: u8) -> Event {
        let events = &mut self.hosts[usize::from(number - 1)].events;
        let next = async {
            loop {
                match events.recv().await {
                    Some(Event::LinkChanged { .. } | Event::Observed { .. }) => {}
                    event => break event,
                }
            }
        };
        let next = async { tokio::time::timeout(DEADLINE, next).await };
        self.runtime.block_on(next).expect("an event within the deadline").expect("it runs")
    }

    /// Reads the counters of a host.
    pub(crate) fn statistics(&self, number: u8) -> Statistics {
        self.host(number).handle.statistics()
    }

    /// Pings host 2's container from host 1's.
    pub(crate) fn ping(&self, ipv6: bool, options: &str) -> String {
        let target = addresses(2)[usize::from(ipv6)];
        self.host(1).container.run("ping", &format!("-n {options} {target}"))
    }
}
