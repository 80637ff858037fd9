//! Hosts and containers as network namespaces of threads: nothing is left when a test ends, whichever way.

use std::{
    collections::BTreeSet,
    fs::File,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::gettid,
};
use weft_router::{
    dataplane::{Tap, open_tap},
    kernel::{AttachSpec, Kernel, KernelConfig},
};
use weft_types::{AllowedAddresses, ContainerId, MacAddress};

use crate::files;

/// How long anything may take before a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// A host: the namespace of the test's own thread, with a TAP device as the data plane makes it.
pub(crate) struct Host {
    pub(crate) kernel: Kernel,
    pub(crate) config: KernelConfig,
    pub(crate) tap: Tap,
}

/// Runs a test in a network namespace of its own. Needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN.
pub(crate) fn on_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    let host = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let config = KernelConfig {
                loopback_ports: vec![6784],
                host_root: "/proc/self/root".into(),
                ..KernelConfig::new("0123abcd", 1400)
            };
            let tap = open_tap(&config.tap, &BTreeSet::new()).expect("a TAP device");
            let kernel = Kernel::start(config.clone()).expect("privileges");
            test(Host { kernel, config, tap }).await;
        });
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A container: a thread in a namespace of its own, which does what it is given.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) pid: u32,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Container {
    /// Starts one with a network of its own, and an id that repeats `id`.
    pub(crate) fn start(id: &str) -> Self {
        Self::start_after(id, || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
            // As the engine does.
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("IPv6 is switched off");
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("IPv6 is switched off");
            output("ip", &["link", "set", "lo", "up"]);
        })
    }

    /// Starts one on the host's network.
    pub(crate) fn start_on_host(id: &str) -> Self {
        Self::start_after(id, || ())
    }

    /// Starts one in the network of another.
    pub(crate) fn start_within(id: &str, other: &Self) -> Self {
        let network = File::open(format!("/proc/{}/ns/net", other.pid)).expect("the other one runs");
        Self::start_after(id, || setns(network, CloneFlags::CLONE_NEWNET).expect("root may join"))
    }

    fn start_after(id: &str, arrange: impl FnOnce() + Send + 'static) -> Self {
        let id = id.repeat(64 / id.len());
        let own = id.clone();
        let (jobs, work) = mpsc::channel::<Job>();
        let (started, pid) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            files::bind(&own);
            arrange();
            started.send(gettid().as_raw()).expect("the test waits");
            work.into_iter().for_each(|job| job());
        });
        let pid = pid.recv().expect("the container started").unsigned_abs();
        Self { id: id.parse().expect("an id"), pid, jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs `action` in the container.
    pub(crate) fn run<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, answer) = mpsc::channel();
        let job = Box::new(move || reply.send(action()).expect("the test waits"));
        self.jobs.as_ref().expect("running").send(job).expect("the container runs");
        answer.recv().expect("the container answered")
    }

    /// Returns what a program prints in the container.
    pub(crate) fn output(&self, program: &'static str, arguments: &'static [&'static str]) -> String {
        self.run(move || output(program, arguments))
    }

    /// What to ask for, with these interface addresses.
    pub(crate) fn spec(&self, addresses: &[&str]) -> AttachSpec {
        AttachSpec {
            container: self.id.clone(),
            pid: self.pid,
            mac: MacAddress::of_container(&self.id),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            allowed: AllowedAddresses::default(),
            multicast_route: true,
            hosts_file: None,
            dns: true,
        }
    }

    /// Tells whether a datagram reaches `to` at `address`.
    pub(crate) fn reaches(&self, to: &Self, address: &str) -> bool {
        let address: IpAddr = address.parse().expect("an address");
        let receiver = to.run(move || UdpSocket::bind(SocketAddr::new(address, 7000)).expect("a bound socket"));
        receiver.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
        self.run(move || {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("a socket");
            socket.send_to(b"weft", (address, 7000)).expect("sent")
        });
        receiver.recv(&mut [0; 16]).is_ok()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Returns what a program prints in the calling thread's namespace. It has to succeed.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = now() + DEADLINE;
    while !condition() {
        assert!(now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "deadlines of tests")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
