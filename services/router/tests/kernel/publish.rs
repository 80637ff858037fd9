//! Ports of the host that lead to containers.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use weft_router::kernel::{DesiredServices, Entrance, Translation, TransportProtocol};

use crate::{
    SIX,
    support::{Container, Host, eventually, now, on_host, output},
};

/// How long an answer that does not come is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// Connections by which all of two targets are met: all go to one with a probability of 2 in 2^40.
const MANY: usize = 40;

const PORT: u16 = 8080;

/// Has a container tell each client by TCP and by UDP its own word and the client's address.
fn serve(word: &'static str, port: u16) {
    let listener = TcpListener::bind(("::", port)).expect("a free port");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let from = client.peer_addr().expect("connected").ip().to_canonical();
            let _ = client.write_all(format!("{word} {from}").as_bytes());
        }
    });
    let socket = UdpSocket::bind(("::", port)).expect("a free port");
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let text = format!("{word} {}", from.ip().to_canonical());
            let _ = socket.send_to(text.as_bytes(), from);
        }
    });
}

/// Returns what a service says; nothing if it is not reached.
fn ask(to: SocketAddr) -> Option<String> {
    let mut client = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    client.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut said = String::new();
    client.read_to_string(&mut said).ok()?;
    Some(said)
}

fn ask_by(socket: &UdpSocket, to: SocketAddr) -> Option<String> {
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    // Answers from elsewhere are none.
    socket.connect(to).expect("connected");
    socket.send(b"?").ok()?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn client_for(to: SocketAddr) -> UdpSocket {
    UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("a socket")
}

/// The port of both protocols, of any address, and whom it leads to.
fn published(targets: &[&str]) -> DesiredServices {
    let targets: BTreeSet<SocketAddr> = targets.iter().map(|text| text.parse().expect("valid")).collect();
    let translation =
        |protocol| Translation { entrance: Entrance::Host(None), protocol, port: PORT, targets: targets.clone() };
    DesiredServices {
        addresses: ["10.32.0.9/12".to_owned(), format!("{SIX}:9/108")].map(|text| text.parse().expect("valid")).into(),
        translations: [TransportProtocol::Tcp, TransportProtocol::Udp].map(translation).into(),
    }
}

fn words(said: impl Iterator<Item = Option<String>>) -> BTreeSet<String> {
    said.map(|said| said.expect("an answer").split(' ').next().expect("a word").to_owned()).collect()
}

/// Makes a station outside, and returns its and the host's addresses.
fn outside() -> (Container, [IpAddr; 2]) {
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/{path}"), "1").expect("a host that routes");
    }
    let outside = Container::start("0c");
    let pid = outside.pid.to_string();
    output("ip", &["link", "set", "lo", "up"]);
    output("ip", &["link", "add", "out", "type", "veth", "peer", "name", "eth0", "netns", &pid]);
    output("ip", &["address", "add", "192.0.2.1/24", "dev", "out"]);
    output("ip", &["address", "add", "2001:db8::1/64", "dev", "out", "nodad"]);
    output("ip", &["link", "set", "out", "up"]);
    outside.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").expect("IPv6 is switched on"));
    outside.output("ip", &["address", "add", "192.0.2.2/24", "dev", "eth0"]);
    outside.output("ip", &["address", "add", "2001:db8::2/64", "dev", "eth0", "nodad"]);
    outside.output("ip", &["link", "set", "eth0", "up"]);
    (outside, ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("valid")))
}

/// Connects a container as the engine does, by a bridge with addresses of 172.X.0.0/16.
fn connect(container: &Container, bridge: &'static str, x: u8) {
    let (pid, veth) = (container.pid.to_string(), format!("veth{x}"));
    let [host, own] = [1, 2].map(|last| format!("172.{x}.0.{last}"));
    output("ip", &["link", "add", bridge, "type", "bridge"]);
    output("ip", &["address", "add", &format!("{host}/16"), "dev", bridge]);
    output("ip", &["link", "set", bridge, "up"]);
    output("ip", &["link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
    output("ip", &["link", "set", &veth, "master", bridge, "up"]);
    container.run(move || {
        output("ip", &["address", "add", &format!("{own}/16"), "dev", "eth0"]);
        output("ip", &["link", "set", "eth0", "up"]);
        output("ip", &["route", "add", "default", "via", &host]);
    });
}

#[test]
fn a_port_leads_to_containers_and_to_those_that_are_left() {
    on_host(|Host { kernel, .. }| async move {
        let (outside, own) = outside();
        // The engine drops what it does not know.
        for family in ["ip", "ip6"] {
            let chain = format!(
                "add table {family} filter; add chain {family} filter FORWARD {{ type filter hook forward priority 0; policy drop; }}"
            );
            output("nft", &[&chain]);
        }
        kernel.prepare().await.expect("prepared");
        let containers = [Container::start("a1"), Container::start("b2")];
        for (container, last) in containers.iter().zip(1..) {
            let addresses = [format!("10.32.0.{last}/12"), format!("{SIX}:{last}/108")];
            kernel.attach(container.spec(&[&addresses[0], &addresses[1]])).await.expect("attached");
        }
        containers[0].run(|| serve("one", 80));
        containers[1].run(|| serve("two", 80));
        let at = own.map(|address| SocketAddr::new(address, PORT));
        let all: Vec<String> = ["10.32.0.1:80", "10.32.0.2:80"]
            .map(str::to_owned)
            .into_iter()
            .chain([1, 2].map(|last| format!("[{SIX}:{last}]:80")))
            .collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let both: BTreeSet<String> = ["one", "two"].map(str::to_owned).into();

        for to in at {
            assert_eq!(outside.run(move || ask(to)), None, "nothing is published");
        }
        kernel.set_published(published(&all)).await.expect("published");
        for to in at {
            let own = move || words((0..MANY).map(|_| ask(to)));
            assert_eq!((own(), outside.run(own)), (both.clone(), both.clone()), "{to} by TCP");
            let own = move || words((0..MANY).map(|_| ask_by(&client_for(to), to)));
            assert_eq!((own(), outside.run(own)), (both.clone(), both.clone()), "{to} by UDP");
        }
        // Only the port is open.
        let to = SocketAddr::new("10.32.0.1".parse().expect("valid"), 80);
        outside.output("ip", &["route", "add", "10.32.0.0/12", "via", "192.0.2.1"]);
        assert_eq!(outside.run(move || ask(to)), None, "a container is reached by another way");
        serve("host", 8081);
        let to = SocketAddr::new("10.32.0.9".parse().expect("valid"), 8081);
        assert_eq!(containers[0].run(move || ask(to)), None, "the host is reached");
        let to = SocketAddr::new("10.32.0.9".parse().expect("valid"), PORT);
        assert_eq!(containers[0].run(move || ask(to)), None, "a container reaches the port from inside");

        // A client by UDP goes on from one port, and is led to whoever is left.
        for to in at {
            kernel.set_published(published(&all)).await.expect("published");
            let client = outside.run(move || client_for(to));
            let first = ask_by(&client, to).expect("an answer");
            let (left, word) = if first.starts_with("one") { (2, "two") } else { (1, "one") };
            let left = [format!("10.32.0.{left}:80"), format!("[{SIX}:{left}]:80")];
            kernel.set_published(published(&[&left[0], &left[1]])).await.expect("published");
            assert!(ask_by(&client, to).expect("an answer").starts_with(word), "{to}: first {first}");
            let met = outside.run(move || words((0..MANY).map(|_| ask(to))));
            assert_eq!(met, [word.to_owned()].into());
        }

        // Whatever somebody takes away is back, and what is somebody's stays.
        kernel.set_published(published(&all)).await.expect("published");
        let damages: [&[&str]; 4] = [
            &["nft", "flush", "ruleset"],
            &["nft", "delete", "table", "inet", "weft-publish"],
            &["nft", "flush", "chain", "inet", "weft-publish", "prerouting"],
            &["ip", "-4", "address", "flush", "dev", "weft"],
        ];
        for damage in damages {
            output(damage[0], &damage[1..]);
            let start = now();
            eventually("published again", || at.into_iter().all(|to| outside.run(move || ask(to)).is_some())).await;
            assert!(start.elapsed() < Duration::from_secs(1), "{damage:?} took {:?}", start.elapsed());
        }
        eventually("settled", || true).await;
        assert_eq!(kernel.prepare().await.expect("prepared"), 0);
        assert_eq!(kernel.problems(), []);

        kernel.set_published(DesiredServices::default()).await.expect("taken back");
        let rules = output("nft", &["list", "ruleset"]).replace(&output("nft", &["list", "ruleset", "bridge"]), "");
        assert!(!rules.contains("10.32") && !rules.contains("weft-publish"), "{rules}");
        assert_eq!(output("ip", &["-o", "address", "show", "dev", "weft", "scope", "global"]), "");
        for to in at {
            assert_eq!(outside.run(move || ask(to)), None, "nothing is published any more");
        }
    });
}

#[test]
fn a_rule_that_closes_the_hosts_chain_does_not_switch_services_off() {
    on_host(|Host { kernel, .. }| async move {
        let (outside, own) = outside();
        let at = own.map(|address| SocketAddr::new(address, PORT));
        let asked = || at.into_iter().all(|to| outside.run(move || ask(to)).is_some());
        let filter = |commands: &str| {
            for (tool, command) in ["iptables", "ip6tables"]
                .into_iter()
                .flat_map(|tool| commands.split("; ").map(move |command| (tool, command)))
            {
                output(tool, &command.split(' ').collect::<Vec<_>>());
            }
        };
        filter("-A FORWARD -j REJECT");
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        kernel.attach(one.spec(&["10.32.0.1/12", &format!("{SIX}:1/108")])).await.expect("attached");
        one.run(|| serve("one", 80));
        kernel.set_published(published(&["10.32.0.1:80", &format!("[{SIX}:1]:80")])).await.expect("published");
        assert!(asked(), "the host refused before");
        for change in [
            "-F FORWARD; -A FORWARD -j REJECT",
            "-I FORWARD -j REJECT",
            // The engine starts, and makes a network: it puts its rules first.
            "-N DOCKER-USER; -N DOCKER-FORWARD; -I FORWARD -j DOCKER-FORWARD; -I FORWARD -j DOCKER-USER",
            "-D FORWARD -j DOCKER-FORWARD; -I FORWARD 2 -j DOCKER-FORWARD",
            "-I FORWARD 3 -j REJECT",
        ] {
            filter(change);
            let start = now();
            eventually(&format!("asked after {change}"), asked).await;
            assert!(start.elapsed() < Duration::from_secs(1), "{change} took {:?}", start.elapsed());
        }
        eventually("settled", || true).await;
        assert_eq!(kernel.prepare().await.expect("prepared"), 0);
        let listed = output("iptables", &["-S", "FORWARD"]);
        let jumps: Vec<&str> = listed
            .lines()
            .filter(|line| line.starts_with("-A") && !line.ends_with("--comment weft -j ACCEPT"))
            .map(|line| line.rsplit(' ').next().expect("a word"))
            .take(4)
            .collect();
        assert_eq!(jumps, ["DOCKER-USER", "DOCKER-FORWARD", "ACCEPT", "ACCEPT"], "{listed}");

        // What the engine's users drop stays dropped, and what the engine drops.
        for chain in ["DOCKER-USER", "DOCKER-FORWARD"] {
            filter(&format!("-A {chain} -o weft ! -i weft -j DROP"));
            assert!(!asked(), "{chain} is passed by");
            filter(&format!("-F {chain}"));
            eventually("asked again", asked).await;
        }
        kernel.set_published(DesiredServices::default()).await.expect("taken back");
        assert!(!output("nft", &["list", "ruleset"]).contains("weft-expose"), "rules are left");
    });
}

#[test]
fn containers_whose_answers_come_back_through_the_host_see_clients() {
    on_host(|Host { kernel, .. }| async move {
        let (outside, [own, _]) = outside();
        // The engine's own rules were flushed.
        output(
            "nft",
            &["add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"],
        );
        kernel.prepare().await.expect("prepared");
        let (plain, engines) = (Container::start("a1"), Container::start("b2"));
        kernel.attach(plain.spec(&["10.32.0.1/12"])).await.expect("attached");
        kernel.attach(engines.spec(&["10.32.0.2/12"])).await.expect("attached");
        connect(&engines, "docker0", 17);
        for path in ["all", "docker0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{path}/rp_filter"), "0").expect("no filter");
        }
        plain.run(|| serve("plain", 80));
        engines.run(|| serve("engine's", 80));
        let to = SocketAddr::new(own, PORT);

        kernel.set_published(published(&["10.32.0.1:80"])).await.expect("published");
        assert_eq!(kernel.direct(), BTreeSet::new());
        assert_eq!(outside.run(move || ask(to)).as_deref(), Some("plain 10.32.0.9"));
        kernel.set_published(published(&["10.32.0.2:80"])).await.expect("published");
        assert_eq!(kernel.direct(), ["10.32.0.2".parse().expect("valid")].into());
        assert_eq!(outside.run(move || ask(to)).as_deref(), Some("engine's 192.0.2.2"));
        let by = outside.run(move || client_for(to));
        assert_eq!(ask_by(&by, to).as_deref(), Some("engine's 10.32.0.9"));
        assert_eq!(ask(to).as_deref(), Some("engine's 10.32.0.9"), "the host itself");
        // The engine lets nothing pass between its networks.
        let neighbour = Container::start("c3");
        connect(&neighbour, "br-x", 18);
        output("iptables", &["-N", "DOCKER-ISOLATION-STAGE-1"]);
        output("iptables", &["-A", "DOCKER-ISOLATION-STAGE-1", "-i", "docker0", "-o", "br-x", "-j", "DROP"]);
        output("iptables", &["-I", "FORWARD", "-j", "DOCKER-ISOLATION-STAGE-1"]);
        kernel.set_published(published(&["10.32.0.2:80"])).await.expect("published");
        assert_eq!(
            neighbour.run(move || ask(to)).as_deref(),
            Some("engine's 10.32.0.9"),
            "another network's container"
        );
        assert_eq!(outside.run(move || ask(to)).as_deref(), Some("engine's 192.0.2.2"));
        // Only answers get out.
        outside.run(|| serve("outside", 81));
        let straight = SocketAddr::new("192.0.2.2".parse().expect("valid"), 81);
        outside.output("ip", &["route", "add", "10.32.0.0/12", "via", "192.0.2.1"]);
        let bound = engines.run(move || {
            let socket = UdpSocket::bind("10.32.0.2:0").expect("bound");
            ask_by(&socket, straight)
        });
        assert_eq!(bound, None, "what is no answer gets out");
        output("nft", &["flush", "chain", "ip", "filter", "FORWARD"]);
        let start = now();
        eventually("answered again", || outside.run(move || ask(to)).is_some()).await;
        assert!(start.elapsed() < Duration::from_secs(1), "it took {:?}", start.elapsed());
        let listed = output("iptables", &["-S", "FORWARD"]);
        let expected = "-s 10.32.0.2/32 -i docker0 ! -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED";
        assert!(listed.contains(expected), "{listed}");

        // A host that lets in no packet by another way than it would answer has nothing to choose.
        std::fs::write("/proc/sys/net/ipv4/conf/docker0/rp_filter", "1").expect("a filter");
        kernel.set_published(published(&["10.32.0.2:80"])).await.expect("published");
        assert_eq!(kernel.direct(), BTreeSet::new());
        assert_eq!(outside.run(move || ask(to)).as_deref(), Some("engine's 10.32.0.9"));

        kernel.remove_all().await.expect("removed");
        let rules = output("nft", &["list", "ruleset"]);
        assert!(!rules.contains("weft"), "{rules}");
        assert!(!rules.contains("10.32"), "{rules}");
    });
}

#[test]
fn questions_of_the_host_itself_are_answered_whatever_is_published() {
    on_host(|Host { kernel, .. }| async move {
        let (outside, _) = outside();
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        kernel.attach(one.spec(&["10.32.0.1/12"])).await.expect("attached");
        output(
            "nft",
            &["add table inet strict; add chain inet strict input { type filter hook input priority 0; }; \
               add rule inet strict input iifname out meta l4proto udp ct state != established drop"],
        );
        let theirs = outside.run(|| UdpSocket::bind(("192.0.2.2", PORT)).expect("a free port"));
        theirs.set_read_timeout(Some(PATIENCE)).expect("set");
        let client = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        client.set_read_timeout(Some(PATIENCE)).expect("set");
        client.connect(("192.0.2.2", PORT)).expect("connected");
        for targets in [&["10.32.0.1:80"][..], &["10.32.0.1:81"], &[]] {
            client.send(b"?").expect("sent");
            let mut buffer = [0; 16];
            let (_, from) = theirs.recv_from(&mut buffer).expect("asked");
            kernel.set_published(published(targets)).await.expect("published");
            theirs.send_to(b"!", from).expect("sent");
            assert_eq!(client.recv(&mut buffer).expect("an answer to a question that was asked before"), 1);
        }
    });
}

#[test]
fn legacy_xtables_let_pass_what_belongs_to_services() {
    on_host(|Host { kernel, .. }| async move {
        let (outside, own) = outside();
        output("iptables-legacy", &["-P", "FORWARD", "DROP"]);
        output("ip6tables-legacy", &["-A", "FORWARD", "-j", "REJECT"]);
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        kernel.attach(one.spec(&["10.32.0.1/12", &format!("{SIX}:1/108")])).await.expect("attached");
        connect(&one, "docker0", 17);
        for path in ["all", "docker0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{path}/rp_filter"), "0").expect("no filter");
        }
        one.run(|| serve("one", 80));
        let at = own.map(|address| SocketAddr::new(address, PORT));
        let asked = || at.map(|to| outside.run(move || ask(to)));
        let sees = ["192.0.2.2".to_owned(), format!("{SIX}:9")].map(|client| Some(format!("one {client}")));
        let services = published(&["10.32.0.1:80", &format!("[{SIX}:1]:80")]);
        kernel.set_published(services).await.expect("published");
        assert_eq!(asked(), sees);
        kernel.prepare().await.expect("prepared");
        assert_eq!(kernel.prepare().await.expect("prepared"), 0);
        assert_eq!(kernel.problems(), []);
        for change in [&["-F", "FORWARD"][..], &["-I", "FORWARD", "-j", "REJECT"]] {
            output("iptables-legacy", change);
            kernel.prepare().await.expect("prepared");
            assert_eq!(asked(), sees, "after {change:?}");
        }

        kernel.set_published(DesiredServices::default()).await.expect("taken back");
        for tool in ["iptables-legacy", "ip6tables-legacy"] {
            let listed = output(tool, &["-S"]);
            assert!(!listed.contains("weft-"), "{listed}");
        }
    });
}

#[test]
fn a_service_outside_is_reached_at_an_address_inside() {
    on_host(|Host { kernel, .. }| async move {
        let (outside, own) = outside();
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        kernel.attach(one.spec(&["10.32.0.1/12", &format!("{SIX}:1/108")])).await.expect("attached");
        outside.run(|| serve("outside", PORT));
        serve("host", 8081);
        let inside = ["10.32.0.9".to_owned(), format!("{SIX}:9")].map(|text| text.parse::<IpAddr>().expect("valid"));
        let theirs = ["192.0.2.2", "2001:db8::2"].map(|text| text.parse::<IpAddr>().expect("valid"));
        let led = |port, targets: [IpAddr; 2]| {
            let one = |(inside, target): (IpAddr, IpAddr)| {
                [TransportProtocol::Tcp, TransportProtocol::Udp].map(|protocol| Translation {
                    entrance: Entrance::Overlay(inside),
                    protocol,
                    port,
                    targets: [SocketAddr::new(target, port)].into(),
                })
            };
            let translations = inside.into_iter().zip(targets).flat_map(one).collect();
            DesiredServices { translations, ..published(&[]) }
        };
        for at in inside {
            let to = SocketAddr::new(at, PORT);
            assert_eq!(one.run(move || ask(to)), None, "nothing is imported");
        }
        kernel.set_published(led(PORT, theirs)).await.expect("imported");
        for (at, sees) in inside.into_iter().zip(own) {
            let to = SocketAddr::new(at, PORT);
            let expected = format!("outside {sees}");
            assert_eq!(one.run(move || ask(to)).as_ref(), Some(&expected), "by TCP");
            assert_eq!(one.run(move || ask_by(&client_for(to), to)).as_ref(), Some(&expected), "by UDP");
            assert_eq!(ask(to).as_ref(), Some(&expected), "the host itself");
        }
        // Nothing else outside is reached, nor the host.
        one.output("ip", &["route", "add", "192.0.2.0/24", "via", "10.32.0.9"]);
        let straight = SocketAddr::new(theirs[0], PORT);
        assert_eq!(one.run(move || ask(straight)), None, "what is outside is reached by another way");
        let host = SocketAddr::new(inside[0], 8081);
        assert_eq!(one.run(move || ask(host)), None, "the host is reached");

        // What the host itself serves can be imported, too.
        kernel.set_published(led(8081, own)).await.expect("imported");
        for at in inside {
            let to = SocketAddr::new(at, 8081);
            assert!(one.run(move || ask(to)).expect("an answer").starts_with("host "), "{to}");
        }
        kernel.set_published(DesiredServices::default()).await.expect("taken back");
        for at in inside {
            let to = SocketAddr::new(at, 8081);
            assert_eq!(one.run(move || ask(to)), None, "nothing is imported any more");
        }
        let rules = output("nft", &["list", "ruleset"]).replace(&output("nft", &["list", "ruleset", "bridge"]), "");
        assert!(!rules.contains("10.32") && !rules.contains("weft-publish"), "{rules}");
    });
}
