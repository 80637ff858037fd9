//! Kernel VXLAN between hosts that trust each other's subnets: used when it is proven, left when it fails, closed to all others.
//!
//! Needs root, for network namespaces; no other network is touched.

#[path = "common/files.rs"]
mod files;
#[path = "mesh/lab.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod lab;
#[path = "common/traffic.rs"]
mod traffic;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use lab::{DEADLINE, Host, Lab, Namespace};
use traffic::{block, goes, pass, transfer, unblock, way};
use weft_proto::router::v1::{DataPath, GetStatusResponse, PathKind, RevokePeersRequest};
use weft_router_core::trusted::pair_number;
use weft_types::PeerName;

const SECRET: &[&str] = &["--password", "open sesame"];
const TRUSTED: &str = "192.168.77.0/24";
const ONE: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 2);
/// How soon frames go sealed after VXLAN failed.
const AWAY: Duration = Duration::from_secs(5);
/// How soon they go by VXLAN after it works again.
const BACK: Duration = Duration::from_secs(10);

/// Two hosts with a container each.
struct Pair {
    lab: Lab,
    hosts: [Host; 2],
    containers: [Namespace; 2],
}

impl Pair {
    /// Starts both, each with the subnets that it trusts.
    async fn start(subnets: [&str; 2]) -> Self {
        Self::start_at("192.168.77.1", subnets, |_, _| ()).await
    }

    /// The same, with the address by which the second dials the first, after each was arranged, by its number from 1.
    async fn start_at(first: &str, subnets: [&str; 2], arrange: impl Fn(&Host, usize)) -> Self {
        let mut lab = Lab::new();
        let mut hosts = [lab.host(), lab.host()];
        hosts.iter().zip(1..).for_each(|(host, number)| arrange(host, number));
        for (number, host) in hosts.iter_mut().enumerate() {
            let peers: &[&str] = if number == 0 { &[] } else { &["--peers", first] };
            host.start(&[SECRET, &["--trusted-subnets", subnets[number]], peers].concat());
        }
        let containers = [Namespace::new(), Namespace::new()];
        for (host, (container, name, address)) in
            hosts.iter().zip([(&containers[0], "one", ONE), (&containers[1], "two", TWO)])
        {
            host.until("it answers", |_| true).await;
            host.attach(container, name, &format!("{address}/12")).await;
        }
        Self { lab, hosts, containers }
    }

    /// Waits until frames go in this way, both ways.
    async fn both_go(&self, kind: PathKind, limit: Duration) {
        let both = async {
            for (host, other) in self.hosts.iter().zip(["host2", "host1"]) {
                host.until(&format!("frames go by {kind:?}"), |status| goes(status, other, kind)).await;
            }
        };
        tokio::time::timeout(limit, both).await.expect("in time");
    }

    async fn pass(&self) {
        pass(&self.containers[0], &self.containers[1], TWO).await;
        pass(&self.containers[1], &self.containers[0], ONE).await;
    }

    fn transfer(&self, length: usize) {
        tokio::task::block_in_place(|| transfer(&self.containers[0], &self.containers[1], TWO, length));
    }

    /// Returns bytes that host 1 has sealed for host 2, and bytes that its kernel has sent by VXLAN.
    async fn sent(&self) -> (u64, u64) {
        let status = self.hosts[0].status().await.expect("it answers");
        let sealed = status.connections.first().expect("connected").sent_bytes;
        let device = self.hosts[0].namespace.run(|| shell("cat /sys/class/net/weft-vx*/statistics/tx_bytes"));
        (sealed, device.trim().parse().expect("a number"))
    }

    /// Returns the name of the device on host 1.
    fn device(&self) -> String {
        devices(&self.hosts[0]).trim().to_owned()
    }

    /// Returns the number of the pair.
    fn number(&self) -> u32 {
        u32::from_str_radix(self.device().strip_prefix("weft-vx").expect("its name"), 16).expect("six digits")
    }
}

/// Runs a command of the shell with its own view of /sys, and returns what it prints. It has to succeed.
fn shell(script: &str) -> String {
    let script = format!("mount -t sysfs weft-test /sys && {{ {script} ; }}");
    let output =
        Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().expect("util-linux is installed");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a container of the host's own engine, on a network with 172.17.0.1, without an address.
fn engine_container(host: &Host) -> Namespace {
    let inside = Namespace::new();
    host.namespace.ip(&format!("link add docker0 type veth peer name eth0 netns {}", inside.id));
    host.namespace.ip("address add 172.17.0.1/16 dev docker0");
    host.namespace.ip("link set docker0 up");
    inside.ip("link set eth0 up");
    inside
}

fn devices(host: &Host) -> String {
    host.namespace.run(|| shell("ls /sys/class/net | grep weft-vx || true"))
}

fn mac(container: &Namespace) -> [u8; 6] {
    let text = container.run(|| shell("cat /sys/class/net/ethwe/address"));
    let bytes: Vec<u8> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}

/// Returns how the way by VXLAN to a host is.
fn by_kernel(status: &GetStatusResponse, to: &str) -> DataPath {
    let Some(peer) = status.peers.iter().find(|peer| peer.nickname == to) else { return DataPath::default() };
    peer.data_paths.iter().find(|way| way.kind() == PathKind::Kernel).cloned().unwrap_or_default()
}

/// A frame of UDP from an address to a container, in VXLAN.
fn vxlan(number: u32, source: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![8, 0, 0, 0];
    bytes.extend((number << 8).to_be_bytes());
    bytes.extend(target.0);
    bytes.extend(source.0);
    bytes.extend([8, 0]);
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend(source.1.octets());
    packet.extend(target.1.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes.extend(packet);
    // From and to port 7000, no checksum.
    bytes.extend([0x1b, 0x58, 0x1b, 0x58, 0, 12, 0, 0]);
    bytes.extend(b"weft");
    bytes
}

/// Tells whether a container gets something on port 7000 while `send` has frames sent.
fn gets(container: &Namespace, address: Ipv4Addr, send: impl Fn()) -> bool {
    let receiver = container.run(move || UdpSocket::bind((address, 7000)).expect("a bound socket"));
    receiver.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    (0..10).any(|_| {
        send();
        receiver.recv(&mut [0; 16]).is_ok()
    })
}

fn send(from: &Namespace, to: String, bytes: Vec<u8>) {
    from.run(move || {
        let to: IpAddr = to.parse().expect("an address");
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        UdpSocket::bind(any).expect("a socket").send_to(&bytes, (to, 6784)).expect("sent");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_go_by_the_kernel_and_sealed_while_that_fails() {
    let pair = Pair::start([TRUSTED, "10.0.0.0/8 192.168.77.0/24"]).await;
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    pair.pass().await;
    let status = pair.hosts[0].status().await.expect("it answers");
    let used = way(&status, "host2").expect("a way");
    assert!(used.batched && used.largest_bytes == 1400 && used.reason.is_empty(), "{used:?}");
    assert_eq!(status.connections[0].path(), PathKind::Kernel);
    let (sealed, plain) = pair.sent().await;
    pair.transfer(8 << 20);
    let (sealed_after, plain_after) = pair.sent().await;
    assert!(plain_after - plain > 8 << 20, "{} bytes went by VXLAN", plain_after - plain);
    assert!(sealed_after - sealed < 100_000, "{} bytes went sealed", sealed_after - sealed);

    // A connection that goes on through all of it.
    let listener = pair.containers[1].run(|| TcpListener::bind((TWO, 7009)).expect("listen"));
    let mut stream =
        pair.containers[0].run(|| TcpStream::connect_timeout(&(TWO, 7009).into(), DEADLINE).expect("connect"));
    let (mut other, _) = listener.accept().expect("accept");
    let mut echo = || {
        other.set_read_timeout(Some(AWAY)).expect("a time-out");
        stream.write_all(b"still there?").expect("sent");
        let mut heard = [0; 12];
        other.read_exact(&mut heard).expect("it arrives in time");
    };
    echo();
    for _ in 0..2 {
        block(&pair.hosts[1], "udp dport 6784");
        tokio::task::block_in_place(&mut echo);
        pair.both_go(PathKind::DirectUdp, AWAY).await;
        let status = pair.hosts[0].status().await.expect("it answers");
        assert!(by_kernel(&status, "host2").reason.contains("no answer to probes by VXLAN"), "{status:?}");
        let told = |status: &GetStatusResponse| status.problems.iter().any(|known| known.reason == "no_vxlan_path");
        pair.hosts[0].until("it is a problem", told).await;
        pair.pass().await;
        unblock(&pair.hosts[1]);
        pair.both_go(PathKind::Kernel, BACK).await;
        echo();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_forgers_reach_no_container() {
    let mut pair = Pair::start([TRUSTED, TRUSTED]).await;
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    pair.pass().await;
    let stranger = pair.lab.host();
    let [one, two] = &pair.containers;
    let (first, second) = ((mac(one), ONE), (mac(two), TWO));
    let number = pair.number();
    let host = pair.hosts[0].address();
    let from = |sender: &Namespace, bytes: Vec<u8>| {
        tokio::task::block_in_place(|| gets(one, ONE, || send(sender, host.clone(), bytes.clone())))
    };
    let peer = &pair.hosts[1].namespace;
    assert!(from(peer, vxlan(number, second, first)), "what the peer's container says arrives");
    assert!(!from(&stranger.namespace, vxlan(number, second, first)), "from an address that nobody trusts");
    assert!(!from(peer, vxlan(number ^ 1, second, first)), "with another number");
    let (elsewhere, nowhere) = (([2, 0, 0, 0, 0, 0x77], TWO), (second.0, Ipv4Addr::new(10, 32, 0, 3)));
    assert!(!from(peer, vxlan(number, elsewhere, first)), "a MAC that does not live there");
    assert!(!from(peer, vxlan(number, nowhere, first)), "an address that does not live there");
    assert!(!from(peer, vxlan(number, first, first)), "a MAC that lives here");
    let everybody = ([0xff; 6], Ipv4Addr::new(10, 47, 255, 255));
    assert!(!from(peer, vxlan(number, second, everybody)), "what is for all comes sealed");

    // What a bridge hands to its own host, whoever it is for: it does not get to the host's own sockets.
    let address: Ipv4Addr = host.parse().expect("an address");
    let to_host = vxlan(number, second, ([0x01, 0x80, 0xc2, 0, 0, 0x0f], address));
    let heard = || gets(&pair.hosts[0].namespace, address, || send(peer, host.clone(), to_host.clone()));
    assert!(!tokio::task::block_in_place(heard), "by a frame that bridges keep");
    let counted = |chain: &str, rule: &str| {
        let rules = pair.hosts[0].namespace.run({
            let command = format!("nft list chain inet weft-vxlan {chain}");
            move || shell(&command)
        });
        let line = rules.lines().find(|line| line.contains(rule)).expect("the rule").to_owned();
        assert!(!line.contains("packets 0 "), "it came so far: {rules}");
    };
    counted("input", "\"weft-vx*\"");

    // A container of the host's own engine that forges the peer's address: it does not come by the link to the peer.
    let inside = engine_container(&pair.hosts[0]);
    inside.ip(&format!("address add {}/32 dev eth0", pair.hosts[1].address()));
    inside.ip("route add 172.17.0.1 dev eth0");
    pair.hosts[0].namespace.run(|| {
        for link in ["all", "docker0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").expect("no other filter");
        }
    });
    let forged = vxlan(number, second, first);
    let sent = || send(&inside, "172.17.0.1".to_owned(), forged.clone());
    assert!(!tokio::task::block_in_place(|| gets(one, ONE, sent)), "by another link");
    counted("input", "fib saddr");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trusted_host_forwards_reaches_no_container() {
    let pair = Pair::start([TRUSTED, TRUSTED]).await;
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    let [one, two] = &pair.containers;
    let peer = &pair.hosts[1].namespace;
    // As the engine arranges it: its containers' datagrams leave with the address of the host.
    let inside = engine_container(&pair.hosts[1]);
    inside.ip("address add 172.17.0.2/16 dev eth0");
    inside.ip("route add default via 172.17.0.1");
    peer.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("it forwards"));
    peer.nft(
        "add table ip nat ; add chain ip nat source { type nat hook postrouting priority 100 ; } ; \
         add rule ip nat source oifname eth0 masquerade",
    );
    let host = pair.hosts[0].address();
    let asked = pair.hosts[0].namespace.run(|| UdpSocket::bind("0.0.0.0:7000").expect("a bound socket"));
    asked.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let target = format!("{host}:7000");
    inside.run(move || UdpSocket::bind("0.0.0.0:0").expect("a socket").send_to(b"weft", target).expect("sent"));
    let (_, from) = asked.recv_from(&mut [0; 16]).expect("other datagrams are forwarded");
    assert_eq!(from.ip().to_string(), pair.hosts[1].address(), "with the host's address");

    let frame = vxlan(pair.number(), (mac(two), TWO), (mac(one), ONE));
    let sent = || send(&inside, host.clone(), frame.clone());
    assert!(
        !tokio::task::block_in_place(|| gets(one, ONE, sent)),
        "what the peer's own containers say does not arrive"
    );
    let rules = peer.run(|| shell("nft list chain inet weft-vxlan forward"));
    let dropped = rules.lines().find(|rule| rule.contains("drop")).expect("the rule");
    assert!(!dropped.contains("packets 0 "), "it came so far: {rules}");

    // Between containers of the overlay the port is theirs, also where bridges have the host's filters asked.
    let further = Namespace::new();
    pair.hosts[1].attach(&further, "three", "10.32.0.3/12").await;
    let receiver = further.run(|| UdpSocket::bind("10.32.0.3:6784").expect("a bound socket"));
    receiver.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
    let arrives = || {
        (0..50).any(|_| {
            send(two, "10.32.0.3".to_owned(), b"weft".to_vec());
            receiver.recv(&mut [0; 16]).is_ok()
        })
    };
    assert!(tokio::task::block_in_place(arrives), "from one container of the overlay to another");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_end_alone_trusts_nobody() {
    let pair = Pair::start([TRUSTED, ""]).await;
    pair.both_go(PathKind::DirectUdp, DEADLINE).await;
    pair.pass().await;
    let reasons = ["has no trusted subnets", "this host has none"];
    for ((host, other), reason) in pair.hosts.iter().zip(["host2", "host1"]).zip(reasons) {
        host.until(reason, |status| by_kernel(status, other).reason.contains(reason)).await;
        assert_eq!(devices(host), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_outside_of_the_others_subnets_is_told_so() {
    let pair = Pair::start([TRUSTED, "10.1.0.0/16"]).await;
    pair.both_go(PathKind::DirectUdp, DEADLINE).await;
    pair.pass().await;
    let named = |reason: &str| reason.starts_with("192.168.77.1 is outside the trusted subnets 10.1.0.0/16 of ");
    for (host, other) in pair.hosts.iter().zip(["host2", "host1"]) {
        host.until("the reason is told", |status| named(&by_kernel(status, other).reason)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_underlay_that_is_too_narrow_for_vxlan_is_used_sealed() {
    let narrow = |host: &Host, _| host.namespace.ip("link set eth0 mtu 1440");
    let pair = Pair::start_at("192.168.77.1", [TRUSTED, TRUSTED], narrow).await;
    pair.pass().await;
    let reason = "packets of 1400 bytes do not pass by VXLAN";
    pair.hosts[0].until(reason, |status| by_kernel(status, "host2").reason.contains(reason)).await;
    pair.both_go(PathKind::DirectUdp, DEADLINE).await;
    pair.transfer(1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_ipv6_trust_each_other_too() {
    let six = |host: &Host, number: usize| {
        host.namespace.ip(&format!("address add fd09::{number}/64 dev eth0 nodad"));
    };
    let pair = Pair::start_at("[fd09::1]", ["fd09::/64", "fd09::/64"], six).await;
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    pair.pass().await;
    let (_, plain) = pair.sent().await;
    pair.transfer(2 << 20);
    let (_, plain_after) = pair.sent().await;
    assert!(plain_after - plain > 2 << 20, "{} bytes went by VXLAN", plain_after - plain);
    let [one, two] = &pair.containers;
    let frame = vxlan(pair.number(), (mac(two), TWO), (mac(one), ONE));
    let from = |sender: &Namespace| {
        tokio::task::block_in_place(|| gets(one, ONE, || send(sender, "fd09::1".to_owned(), frame.clone())))
    };
    assert!(from(&pair.hosts[1].namespace), "what the peer's container says arrives");
    pair.hosts[1].namespace.ip("address add fd09::99/64 dev eth0 nodad");
    pair.hosts[1].namespace.ip("route replace fd09::1 dev eth0 src fd09::99");
    assert!(!from(&pair.hosts[1].namespace), "from an address that nobody trusts");
}

/// Waits until a host has no device, or until it has one.
async fn until_devices(host: &Host, present: bool) {
    let what = if present { "a device is made" } else { "the devices are removed" };
    host.until(what, |_| tokio::task::block_in_place(|| devices(host).is_empty() != present)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_ends_with_the_control_connection_and_with_the_key() {
    let pair = Pair::start([TRUSTED, TRUSTED]).await;
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    // Datagrams go on, VXLAN's too.
    block(&pair.hosts[1], "iifname eth0 meta l4proto tcp");
    for host in &pair.hosts {
        until_devices(host, false).await;
    }
    unblock(&pair.hosts[1]);
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    let request = RevokePeersRequest { peers: vec!["host2".into()] };
    pair.hosts[0].peers().revoke_peers(request).await.expect("revoked");
    for host in &pair.hosts {
        until_devices(host, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_somebody_takes_away_is_made_again_and_heard() {
    let pair = Pair::start([TRUSTED, TRUSTED]).await;
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    let (host, device) = (&pair.hosts[0], pair.device());
    host.namespace.ip(&format!("link delete {device}"));
    until_devices(host, true).await;
    // More frames of probes than come until a way that is not heard is left.
    let received = || {
        let file = format!("cat /sys/class/net/{device}/statistics/rx_packets");
        let count = tokio::task::block_in_place(|| host.namespace.run(move || shell(&file)));
        count.trim().parse::<u64>().expect("a number")
    };
    host.until("probes come", |_| received() > 12).await;
    pair.both_go(PathKind::Kernel, BACK).await;
    pair.pass().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_refuses_for_one_peer_is_no_matter_of_another() {
    fn name(status: &GetStatusResponse) -> PeerName {
        let name = status.peer_name.as_ref().expect("its name");
        PeerName::from_public_key(name.key.as_slice().try_into().expect("a key"))
    }
    let mut pair = Pair::start([TRUSTED, TRUSTED]).await;
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    let mut third = pair.lab.host();
    third.start(SECRET);
    let its_name = name(&third.until("it answers", |_| true).await);
    third.stop();
    let [first, second] = &pair.hosts;
    let number = pair_number(name(&first.status().await.expect("it answers")), its_name);
    first.namespace.ip(&format!("link add weft-vx{number:06x} type bridge"));
    third.start(&[SECRET, &["--trusted-subnets", TRUSTED, "--peers", &first.address()]].concat());
    let refused = |status: &GetStatusResponse| by_kernel(status, "host3").reason.contains("the kernel refuses VXLAN");
    let status = first.until("what is refused is shown", refused).await;
    assert!(goes(&status, "host2", PathKind::Kernel) && way(&status, "host2").is_some_and(|way| way.reason.is_empty()));
    // Whoever comes next gets a device all the same.
    first.namespace.ip(&format!(
        "link delete weft-vx{:06x}",
        pair_number(name(&status), name(&second.status().await.expect("it answers")))
    ));
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    pair.pass().await;
    first.until("host2 goes by VXLAN still", |status| goes(status, "host2", PathKind::Kernel) && refused(status)).await;
    first.namespace.ip(&format!("link delete weft-vx{number:06x}"));
    first.until("host3 does, too", |status| goes(status, "host3", PathKind::Kernel)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_device_outlives_its_router() {
    let mut pair = Pair::start([TRUSTED, TRUSTED]).await;
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    pair.hosts[1].kill();
    assert_ne!(devices(&pair.hosts[1]), "", "killed");
    pair.hosts[0].until("the other end leaves it", |status| !goes(status, "host2", PathKind::Kernel)).await;
    let first = pair.hosts[0].address();
    pair.hosts[1].start(SECRET);
    pair.hosts[1].until("it answers", |_| true).await;
    assert_eq!(devices(&pair.hosts[1]), "", "what is left goes at the next start");
    pair.hosts[1].stop();
    pair.hosts[1].start(&[SECRET, &["--trusted-subnets", TRUSTED, "--peers", &first]].concat());
    pair.both_go(PathKind::Kernel, DEADLINE).await;
    pair.pass().await;
    pair.hosts[0].stop();
    assert_eq!(devices(&pair.hosts[0]), "", "stopped");
}
