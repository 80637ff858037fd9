//! Hosts as network namespaces, each with a router process of its own, joined by a switch. Nothing is left when a test
//! ends, whichever way: namespaces live as long as the threads and processes in them.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use tempfile::TempDir;
use tonic::transport::Channel;
use weft_proto::{
    client::{Service, channel},
    router::v1::{
        AttachRequest, GetStatusRequest, GetStatusResponse, attachment_service_client::AttachmentServiceClient,
        gossip_service_client::GossipServiceClient, peer_service_client::PeerServiceClient,
    },
};

use crate::files;

/// How long anything may take before a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace: a thread in it, which does what it is given.
pub(crate) struct Namespace {
    pub(crate) id: u32,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, work) = mpsc::channel::<Job>();
        let (started, id) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
            started.send(gettid().as_raw().unsigned_abs()).expect("the test waits");
            work.into_iter().for_each(|job| job());
        });
        let id = id.recv().expect("the namespace is there");
        let namespace = Self { id, jobs: Some(jobs), thread: Some(thread) };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `action` in the namespace.
    pub(crate) fn run<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, answer) = mpsc::channel();
        let job = Box::new(move || {
            // Who asked may have panicked meanwhile.
            let _ = reply.send(action());
        });
        self.jobs.as_ref().expect("running").send(job).expect("the namespace is there");
        answer.recv().expect("the action ended")
    }

    pub(crate) fn ip(&self, arguments: &str) {
        let words: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let output = self.run(move || Command::new("ip").args(words).output().expect("iproute2 is installed"));
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Changes the rules of nftables.
    pub(crate) fn nft(&self, rules: &str) {
        let given = rules.to_owned();
        let output = self.run(move || Command::new("nft").arg(given).output().expect("nftables is installed"));
        assert!(output.status.success(), "{rules}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The hosts' network.
pub(crate) struct Lab {
    switch: Namespace,
    hosts: u8,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let switch = Namespace::new();
        switch.ip("link add underlay up type bridge");
        Self { switch, hosts: 0 }
    }

    /// Makes a host with the address 192.168.77.N, N counting from 1.
    pub(crate) fn host(&mut self) -> Host {
        let (namespace, number) = self.join();
        Host::new(namespace, number)
    }

    fn join(&mut self) -> (Namespace, u8) {
        self.hosts += 1;
        let number = self.hosts;
        let namespace = Namespace::new();
        namespace.ip(&format!("link add eth0 type veth peer name port{number} netns {}", self.switch.id));
        self.switch.ip(&format!("link set port{number} master underlay up"));
        namespace.ip("link set eth0 up");
        namespace.ip(&format!("address add 192.168.77.{number}/24 dev eth0"));
        (namespace, number)
    }

    /// Makes a host that reaches the others through a router, which gives it 192.168.77.N as outside address, by `masquerade`
    /// of nftables with these flags, and lets nothing in that was not asked for.
    pub(crate) fn host_behind_nat(&mut self, flags: &str) -> (Namespace, Host) {
        let (outside, number) = self.join();
        let inside = Namespace::new();
        outside.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a router"));
        inside.ip(&format!("link add eth0 type veth peer name inside netns {}", outside.id));
        for (namespace, link, last) in [(&outside, "inside", 1), (&inside, "eth0", 2)] {
            namespace.ip(&format!("address add 172.30.{number}.{last}/24 dev {link}"));
            namespace.ip(&format!("link set {link} up"));
        }
        inside.ip(&format!("route add default via 172.30.{number}.1"));
        let chain = |name: &str, hook: &str, rules: &str| {
            format!("add chain ip nat {name} {{ type {hook} ; }} ; add rule ip nat {name} {rules} ; ")
        };
        let source = format!("oifname eth0 masquerade {flags}");
        let rules = [
            "add table ip nat ; ".to_owned(),
            chain("source", "nat hook postrouting priority 100", &source),
            chain("through", "filter hook forward priority 0", "iifname eth0 ct state new drop"),
            chain("in", "filter hook input priority 0", "iifname eth0 drop"),
        ];
        outside.nft(&rules.concat());
        (outside, Host::new(inside, number))
    }
}

/// A host with its router.
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    folder: TempDir,
    number: u8,
    router: Option<Child>,
}

impl Host {
    fn new(namespace: Namespace, number: u8) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { namespace, folder, number, router: None }
    }

    pub(crate) fn address(&self) -> String {
        format!("192.168.77.{}", self.number)
    }

    pub(crate) fn sockets(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft-router"));
        command
            .env_clear()
            .env("WEFT_LOG_LEVEL", "info")
            .args(["--socket-folder".into(), self.sockets()])
            .args(["--state-folder".into(), self.folder.path().join("state")])
            .args(["--nickname", &format!("host{}", self.number)])
            .args(options)
            .stdin(Stdio::null());
        command
    }

    /// Starts the router, with a log that a failing test prints.
    pub(crate) fn start(&mut self, options: &[&str]) {
        let mut command = self.command(options);
        self.router = Some(self.namespace.run(move || command.spawn().expect("the router starts")));
    }

    /// Runs a router that is expected to give up, and returns what it says at its end.
    pub(crate) fn fails(&self, options: &[&str]) -> String {
        last_words(self.spawn_quietly(options))
    }

    /// Starts the router, without a log, so that [`Host::gives_up`] can tell what it says at its end.
    pub(crate) fn start_quietly(&mut self, options: &[&str]) {
        self.router = Some(self.spawn_quietly(options));
    }

    /// Waits until the router that was started quietly gives up, and returns what it says.
    pub(crate) async fn gives_up(&mut self) -> String {
        let router = self.router.as_mut().expect("it runs");
        let ending = async {
            while router.try_wait().expect("known").is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ending).await.expect("it gives up in time");
        last_words(self.router.take().expect("it ran"))
    }

    fn spawn_quietly(&self, options: &[&str]) -> Child {
        let mut command = self.command(options);
        command.env("WEFT_LOG_LEVEL", "off").stderr(Stdio::piped());
        self.namespace.run(move || command.spawn().expect("the router starts"))
    }

    /// Returns the number of the router's process.
    pub(crate) fn process(&self) -> u32 {
        self.router.as_ref().expect("it runs").id()
    }

    /// Ends the router at once.
    pub(crate) fn kill(&mut self) {
        let mut router = self.router.take().expect("it runs");
        router.kill().expect("killed");
        router.wait().expect("ended");
    }

    /// Asks the router to stop, and waits until it did.
    pub(crate) fn stop(&mut self) {
        let mut router = self.router.take().expect("it runs");
        let pid = nix::unistd::Pid::from_raw(router.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
        assert!(router.wait().expect("ended").success());
    }

    fn channel(&self) -> Channel {
        channel(&Service::Router.socket(&self.sockets()))
    }

    pub(crate) fn gossip(&self) -> GossipServiceClient<Channel> {
        GossipServiceClient::new(self.channel())
    }

    pub(crate) fn attachments(&self) -> AttachmentServiceClient<Channel> {
        AttachmentServiceClient::new(self.channel())
    }

    pub(crate) fn peers(&self) -> PeerServiceClient<Channel> {
        PeerServiceClient::new(self.channel())
    }

    /// Returns the status; nothing while the router does not answer.
    pub(crate) async fn status(&self) -> Option<GetStatusResponse> {
        Some(self.peers().get_status(GetStatusRequest {}).await.ok()?.into_inner())
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn until(
        &self,
        what: &str,
        mut wanted: impl FnMut(&GetStatusResponse) -> bool,
    ) -> GetStatusResponse {
        let mut last = None;
        let waiting = async {
            loop {
                if let Some(status) = self.status().await {
                    if wanted(&status) {
                        return status;
                    }
                    last = Some(status);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let outcome = tokio::time::timeout(DEADLINE, waiting).await;
        outcome.unwrap_or_else(|_| panic!("host{}: waited in vain: {what}: {last:#?}", self.number))
    }

    /// Attaches a container to the overlay.
    pub(crate) async fn attach(&self, container: &Namespace, name: &str, address: &str) {
        self.attach_allowing(container, name, address, &[]).await;
    }

    /// The same with addresses that the container may give itself.
    pub(crate) async fn attach_allowing(&self, container: &Namespace, name: &str, address: &str, allowed: &[IpAddr]) {
        let id = name.to_owned();
        container.run(move || files::bind(&id));
        let request = AttachRequest {
            container_id: name.into(),
            pid: container.id,
            addresses: vec![address.parse::<ipnet::IpNet>().expect("valid").into()],
            multicast_route: false,
            hosts_file: None,
            allowed: allowed.iter().map(|address| (*address).into()).collect(),
        };
        self.attachments().attach(request).await.expect("attached");
    }
}

fn last_words(mut router: Child) -> String {
    let mut said = String::new();
    router.stderr.take().expect("piped").read_to_string(&mut said).expect("readable");
    let status = router.wait().expect("it ends");
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "one sentence: {said}");
    said
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut router) = self.router.take() {
            let _ = router.kill();
            let _ = router.wait();
        }
    }
}

/// Waits until a datagram sent in one container arrives in the other.
pub(crate) fn reaches(from: &Namespace, to: &Namespace, address: Ipv4Addr) -> bool {
    use std::net::UdpSocket;
    let receiver = to.run(move || UdpSocket::bind((address, 7000)).expect("a bound socket"));
    receiver.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
    let address = IpAddr::V4(address);
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        // Without a route there is an error, and nothing arrives.
        let _ = socket.send_to(b"weft", (address, 7000));
    });
    receiver.recv(&mut [0; 16]).is_ok()
}
