//! What containers with NET_RAW send, and who gets it, as the kernel decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use ipnet::IpNet;
use weft_router::kernel::{AttachSpec, Exposure, Kernel};
use weft_router_core::{forward::DropReason, virtio};
use weft_types::MacAddress;

use crate::{
    raw::{ALL_NODES, BROADCAST, Mac, Raw, UNKNOWN_KIND, arp, frame, icmp6, neighbour_advertisement, tag, udp4, udp6},
    support::{Container, DEADLINE, Host, eventually, now, on_host, output},
};

/// Number of the frame that says that all have been sent.
const LAST: u16 = u16::MAX;
/// All nodes of the link.
const EVERYBODY: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// In the first subnet: the attacker, its neighbour and a third; in the second: one; in both: one.
struct Containers {
    attacker: Container,
    neighbour: Container,
    apart: Container,
    both: Container,
}

fn ipv4(subnet: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, subnet, 0, last)
}

fn ipv6(subnet: u8, last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd12, 0, 0, subnet.into(), 0, 0, 0, last.into())
}

fn addresses(places: &[(u8, u8)]) -> Vec<String> {
    places
        .iter()
        .flat_map(|(subnet, last)| [format!("{}/24", ipv4(*subnet, *last)), format!("{}/64", ipv6(*subnet, *last))])
        .collect()
}

fn mac(container: &Container) -> Mac {
    container.spec(&[]).mac.octets()
}

impl Containers {
    async fn attach(kernel: &Kernel) -> Self {
        kernel.prepare().await.expect("prepared");
        let [attacker, neighbour, apart, both] = ["a1", "b2", "c3", "d4"].map(Container::start);
        let containers = Self { attacker, neighbour, apart, both };
        for (container, places) in [
            (&containers.attacker, &[(1, 1)][..]),
            (&containers.neighbour, &[(1, 2)]),
            (&containers.apart, &[(2, 3)]),
            (&containers.both, &[(1, 4), (2, 4)]),
        ] {
            let addresses = addresses(places);
            let spec = container.spec(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
            kernel.attach(spec).await.expect("attached");
        }
        containers
    }
}

/// Sends each frame from a container, and then from `permitted`, who may, one that says so. Returns which of the first `to` sees.
fn seen(from: &Container, permitted: &Container, to: &Container, frames: Vec<Vec<u8>>) -> BTreeSet<u16> {
    let mut receiver = to.run(|| Raw::open().expect("a packet socket"));
    let send = |from: &Container, frames: Vec<Vec<u8>>| {
        from.run(move || {
            let mut socket = Raw::open().expect("a packet socket");
            frames.iter().for_each(|frame| socket.send(frame).expect("sent"));
        });
    };
    send(from, frames);
    send(permitted, vec![frame(mac(to), mac(permitted), UNKNOWN_KIND, &tag(LAST))]);
    let mut seen = receiver.seen(LAST, DEADLINE).expect("received");
    assert!(seen.remove(&LAST), "what is permitted passes");
    seen.extend(receiver.seen(LAST, Duration::from_millis(100)).expect("received"));
    seen
}

/// What it is for people, where it goes, where it claims to come from, its kind, and what is in it by the number that it bears.
type Try<'a> = (&'static str, Mac, Mac, u16, &'a dyn Fn(u16) -> Vec<u8>);

/// Tries each and names those whose frames the other one saw.
fn succeeded(from: &Container, permitted: &Container, to: &Container, attacks: &[Try<'_>]) -> Vec<&'static str> {
    let frames = attacks
        .iter()
        .zip(0..)
        .map(|((_, to, from, kind, content), number)| frame(*to, *from, *kind, &content(number)));
    let seen = seen(from, permitted, to, frames.collect());
    attacks.iter().zip(0..).filter(|(_, number)| seen.contains(number)).map(|((name, ..), _)| *name).collect()
}

#[test]
fn a_container_speaks_for_itself_alone() {
    on_host(|Host { kernel, .. }| async move {
        let Containers { attacker, neighbour, both, .. } = Containers::attach(&kernel).await;
        let (own, victim, third) = (mac(&attacker), mac(&neighbour), mac(&both));
        let (own4, victim4, third4) = (ipv4(1, 1), ipv4(1, 2), ipv4(1, 4));
        let (own6, victim6, third6) = (ipv6(1, 1), ipv6(1, 2), ipv6(1, 4));
        let local = MacAddress::new(own).link_local();
        let foreign_local = MacAddress::new(third).link_local();
        let router_advertisement = [134, 0, 0, 0, 64, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &own6.octets(), &third6.octets()].concat();
        let tagged = |n| [&[0, 0, 8, 0][..], &udp4(own4, victim4, (1, 2), n)].concat();

        let attacks: &[Try<'_>] = &[
            ("foreign MAC", victim, third, UNKNOWN_KIND, &tag),
            ("foreign MAC with its IPv4", victim, third, 0x0800, &|n| udp4(third4, victim4, (1, 2), n)),
            ("foreign IPv4", victim, own, 0x0800, &|n| udp4(third4, victim4, (1, 2), n)),
            ("IPv4 of nobody", victim, own, 0x0800, &|n| udp4(ipv4(1, 77), victim4, (1, 2), n)),
            ("IPv4 of the name server", victim, own, 0x0800, &|n| udp4([169, 254, 83, 53].into(), victim4, (53, 2), n)),
            ("foreign IPv6", victim, own, 0x86dd, &|n| udp6(third6, victim6, (1, 2), n)),
            ("foreign link-local IPv6", victim, own, 0x86dd, &|n| udp6(foreign_local, victim6, (1, 2), n)),
            ("ARP answer for another's address", victim, own, 0x0806, &|n| arp(2, own, third4, victim4, n)),
            ("ARP answer to all", BROADCAST, own, 0x0806, &|n| arp(2, own, third4, third4, n)),
            ("ARP question in another's name", BROADCAST, own, 0x0806, &|n| arp(1, own, third4, victim4, n)),
            ("ARP with another's MAC inside", victim, own, 0x0806, &|n| arp(2, third, own4, victim4, n)),
            ("ARP answer from nowhere", victim, own, 0x0806, &|n| arp(2, own, [0; 4].into(), victim4, n)),
            ("ARP for the name server", BROADCAST, own, 0x0806, &|n| {
                arp(2, own, [169, 254, 83, 53].into(), victim4, n)
            }),
            ("neighbour advertisement", victim, own, 0x86dd, &|n| neighbour_advertisement(own6, victim6, third6, n)),
            ("the same to all", ALL_NODES, own, 0x86dd, &|n| neighbour_advertisement(own6, EVERYBODY, third6, n)),
            ("the same for a link-local one", victim, own, 0x86dd, &|n| {
                neighbour_advertisement(own6, victim6, foreign_local, n)
            }),
            ("router advertisement", ALL_NODES, own, 0x86dd, &|n| icmp6(local, EVERYBODY, &router_advertisement, n)),
            ("redirect", victim, own, 0x86dd, &|n| icmp6(local, victim6, &redirect, n)),
            ("DHCP offer", BROADCAST, own, 0x0800, &|n| udp4(own4, Ipv4Addr::BROADCAST, (67, 68), n)),
            ("DHCPv6 reply", victim, own, 0x86dd, &|n| udp6(own6, victim6, (547, 546), n)),
            ("VLAN tag", victim, own, 0x8100, &tagged),
            ("two VLAN tags", victim, own, 0x88a8, &tagged),
        ];
        assert_eq!(succeeded(&attacker, &attacker, &neighbour, attacks), [""; 0]);

        let fair: &[Try<'_>] = &[
            ("IPv4", victim, own, 0x0800, &|n| udp4(own4, victim4, (1, 2), n)),
            ("IPv4 to all", BROADCAST, own, 0x0800, &|n| udp4(own4, ipv4(1, 255), (1, 2), n)),
            ("IPv6", victim, own, 0x86dd, &|n| udp6(own6, victim6, (1, 2), n)),
            ("link-local IPv6", victim, own, 0x86dd, &|n| udp6(local, victim6, (1, 2), n)),
            ("ARP answer", victim, own, 0x0806, &|n| arp(2, own, own4, victim4, n)),
            ("ARP announcement", BROADCAST, own, 0x0806, &|n| arp(1, own, own4, own4, n)),
            ("ARP probe", BROADCAST, own, 0x0806, &|n| arp(1, own, [0; 4].into(), ipv4(1, 77), n)),
            ("neighbour advertisement", ALL_NODES, own, 0x86dd, &|n| neighbour_advertisement(own6, EVERYBODY, own6, n)),
            ("DHCP question", BROADCAST, own, 0x0800, &|n| udp4([0; 4].into(), Ipv4Addr::BROADCAST, (68, 67), n)),
            ("unknown kind to all", BROADCAST, own, UNKNOWN_KIND, &tag),
        ];
        let names: Vec<_> = fair.iter().map(|(name, ..)| *name).collect();
        assert_eq!(succeeded(&attacker, &attacker, &neighbour, fair), names);

        let dropped = kernel.dropped();
        for (reason, least) in [
            (DropReason::SpoofedSource, 2),
            (DropReason::SpoofedAddress, 14),
            (DropReason::ForbiddenService, 4),
            (DropReason::VlanTagged, 2),
        ] {
            assert!(dropped.get(&reason).is_some_and(|count| *count >= least), "{reason}: {dropped:?}");
        }
    });
}

#[test]
fn frames_pass_between_members_of_one_subnet_alone() {
    on_host(|Host { kernel, .. }| async move {
        let Containers { attacker, apart, both, .. } = Containers::attach(&kernel).await;
        let (own, victim) = (mac(&attacker), mac(&apart));
        let attacks: &[Try<'_>] = &[
            ("IPv4", victim, own, 0x0800, &|n| udp4(ipv4(1, 1), ipv4(2, 3), (1, 2), n)),
            ("IPv6", victim, own, 0x86dd, &|n| udp6(ipv6(1, 1), ipv6(2, 3), (1, 2), n)),
            ("ARP question", BROADCAST, own, 0x0806, &|n| arp(1, own, ipv4(1, 1), ipv4(2, 3), n)),
            ("ARP question to one", victim, own, 0x0806, &|n| arp(1, own, ipv4(1, 1), ipv4(2, 3), n)),
            ("unknown kind", victim, own, UNKNOWN_KIND, &tag),
            ("unknown kind to all", BROADCAST, own, UNKNOWN_KIND, &tag),
            ("IPv4 to all", BROADCAST, own, 0x0800, &|n| udp4(ipv4(1, 1), Ipv4Addr::BROADCAST, (1, 2), n)),
            ("IPv4 multicast", [1, 0, 0x5e, 1, 2, 3], own, 0x0800, &|n| {
                udp4(ipv4(1, 1), [239, 1, 2, 3].into(), (1, 2), n)
            }),
            ("IPv6 multicast", ALL_NODES, own, 0x86dd, &|n| udp6(ipv6(1, 1), EVERYBODY, (1, 2), n)),
        ];
        assert_eq!(succeeded(&attacker, &both, &apart, attacks), [""; 0]);
        assert!(kernel.dropped()[&DropReason::ForeignSubnet] >= 4, "{:?}", kernel.dropped());
        // Who is in both talks in each, and carries nothing over.
        let (to_one, to_other) =
            (frame(own, mac(&both), UNKNOWN_KIND, &tag(1)), frame(BROADCAST, mac(&both), UNKNOWN_KIND, &tag(2)));
        assert_eq!(seen(&both, &both, &attacker, vec![to_one, to_other.clone()]), [1, 2].into());
        assert_eq!(seen(&both, &both, &apart, vec![to_other]), [2].into());
    });
}

#[test]
fn what_comes_for_all_from_other_hosts_goes_to_the_members_alone() {
    on_host(|Host { kernel, tap, .. }| async move {
        let Containers { neighbour, apart, both, .. } = Containers::attach(&kernel).await;
        const FAR: Mac = [2, 0, 0, 0, 0, 9];
        let far = |number| frame(BROADCAST, FAR, UNKNOWN_KIND, &tag(number));
        let subnet = |text: &str| BTreeSet::from([text.parse::<IpNet>().expect("a subnet")]);
        kernel.set_remote(BTreeMap::from([(MacAddress::new(FAR), subnet("10.2.0.0/24"))]));
        let sockets =
            [&neighbour, &apart, &both].map(|container| container.run(|| Raw::open().expect("a packet socket")));
        let inject = |frame: Vec<u8>| {
            nix::unistd::write(&tap, &[&[0; virtio::HEADER][..], &frame].concat()).expect("written");
        };
        inject(far(1));
        kernel.set_remote(BTreeMap::from([(MacAddress::new(FAR), subnet("10.1.0.0/24"))]));
        inject(far(2));
        kernel.set_remote(BTreeMap::new());
        inject(far(3));
        let limit = Duration::from_millis(300);
        let seen = sockets.map(|mut socket| socket.seen(LAST, limit).expect("received"));
        assert_eq!(seen, [[2].into(), [1].into(), [1, 2].into()]);
    });
}

#[test]
fn the_guard_is_kept_over_restarts_and_back_within_a_second() {
    on_host(|Host { kernel, config, .. }| async move {
        // Those that nobody asks for end with the test.
        let containers = Containers::attach(&kernel).await;
        let Containers { attacker, neighbour, .. } = &containers;
        assert_eq!(kernel.prepare().await.expect("prepared"), 0, "all is as it should be");
        let guard = || output("nft", &["list", "table", "bridge", "weft"]);
        let before = guard();
        for damage in [
            &["delete", "table", "bridge", "weft"][..],
            &["flush", "ruleset"],
            &["flush", "chain", "bridge", "weft", "prerouting"],
            &["flush", "set", "bridge", "weft", "sources4"],
            &["flush", "set", "bridge", "weft", "ports-10.1.0.0/24"],
        ] {
            output("nft", damage);
            let start = now();
            // Counters and the order of elements differ.
            let lines = |text: &str| text.lines().filter(|line| !line.contains("packets")).count();
            eventually("repaired", || {
                output("nft", &["list", "tables"]).contains("bridge weft") && lines(&guard()) == lines(&before)
            })
            .await;
            assert!(start.elapsed() < Duration::from_secs(1), "{damage:?} took {:?}", start.elapsed());
            assert!(attacker.reaches(neighbour, "10.1.0.2"), "{damage:?}");
        }

        // What a container gives itself is not its own, not even after a restart, nor in a wider subnet.
        attacker.output("ip", &["address", "add", "10.1.0.66/24", "dev", "ethwe"]);
        drop(kernel);
        let kernel = Kernel::start(config).expect("privileges");
        kernel.prepare().await.expect("prepared");
        let observed = kernel.observe().await.expect("listed");
        let of_attacker = observed.iter().find(|one| one.container == attacker.id).expect("there");
        let expected: BTreeSet<String> = addresses(&[(1, 1)]).into_iter().collect();
        assert_eq!(of_attacker.addresses.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), expected);
        let attached = kernel.attach(attacker.spec(&["10.1.0.1/24"])).await.expect("attached");
        assert_eq!(attached.addresses.len(), 2, "{:?}", attached.addresses);
        let forged = frame(mac(neighbour), mac(attacker), 0x0800, &udp4(ipv4(1, 66), ipv4(1, 2), (1, 2), 1));
        assert_eq!(seen(attacker, attacker, neighbour, vec![forged]), BTreeSet::new());

        let taken = "10.1.0.1/24".parse().expect("an address");
        kernel.detach(attacker.id.clone(), vec![taken]).await.expect("detached");
        let withdrawn = frame(mac(neighbour), mac(attacker), 0x0800, &udp4(ipv4(1, 1), ipv4(1, 2), (1, 2), 1));
        assert_eq!(seen(attacker, attacker, neighbour, vec![withdrawn]), BTreeSet::new());
        kernel.remove_all().await.expect("removed");
        assert!(!output("nft", &["list", "ruleset"]).contains("bridge weft"));
    });
}

#[test]
fn an_allowed_address_passes_until_it_is_allowed_no_more() {
    on_host(|Host { kernel, config, .. }| async move {
        let containers = Containers::attach(&kernel).await;
        let Containers { attacker, neighbour, apart, both } = &containers;
        let (own, victim, stranger) = (mac(attacker), mac(neighbour), mac(both));
        let (float4, float6) = (ipv4(1, 100), ipv6(1, 100));
        let says = |mac: Mac, own6: Ipv6Addr| {
            vec![
                frame(BROADCAST, mac, 0x0806, &arp(1, mac, float4, float4, 0)),
                frame(victim, mac, 0x0806, &arp(2, mac, float4, ipv4(1, 2), 1)),
                frame(victim, mac, 0x0800, &udp4(float4, ipv4(1, 2), (1, 2), 2)),
                frame(ALL_NODES, mac, 0x86dd, &neighbour_advertisement(own6, EVERYBODY, float6, 3)),
                frame(victim, mac, 0x86dd, &udp6(float6, ipv6(1, 2), (1, 2), 4)),
            ]
        };
        let all: BTreeSet<u16> = (0..5).collect();
        let spec = attacker.spec(&addresses(&[(1, 1)]).iter().map(String::as_str).collect::<Vec<_>>());
        let allowing = |allowed: &str| {
            let allowed = allowed.parse().expect("addresses");
            AttachSpec { allowed, ..spec.clone() }
        };
        let from_attacker = || seen(attacker, attacker, neighbour, says(own, ipv6(1, 1)));
        assert_eq!(from_attacker(), BTreeSet::new());
        kernel.attach(allowing("10.1.0.100,fd12:0:0:1::64")).await.expect("attached");
        assert_eq!(from_attacker(), all);
        assert_eq!(
            seen(both, both, neighbour, says(stranger, ipv6(1, 4))),
            BTreeSet::new(),
            "it is allowed to one alone"
        );
        let elsewhere = frame(mac(apart), own, 0x0800, &udp4(float4, ipv4(2, 3), (1, 2), 1));
        assert_eq!(seen(attacker, both, apart, vec![elsewhere]), BTreeSet::new(), "it makes nobody a member");

        // Given to itself it is not its own, and is allowed still.
        attacker.output("ip", &["address", "add", "10.1.0.100/24", "dev", "ethwe"]);
        drop(kernel);
        let kernel = Kernel::start(config).expect("privileges");
        kernel.prepare().await.expect("prepared");
        let observed = kernel.observe().await.expect("listed");
        let of_attacker = observed.iter().find(|one| one.container == attacker.id).expect("there");
        assert_eq!(
            (of_attacker.addresses.len(), of_attacker.allowed.to_string()),
            (2, "10.1.0.100,fd12:0:0:1::64".into())
        );
        assert_eq!(from_attacker(), all, "after a restart of the router");
        output("nft", &["flush", "set", "bridge", "weft", "sources4"]);
        eventually("repaired", || from_attacker() == all).await;

        kernel.attach(allowing("fd12:0:0:1::64")).await.expect("attached");
        assert_eq!(from_attacker(), [3, 4].into());
        let before = kernel.dropped()[&DropReason::SpoofedAddress];
        kernel.attach(allowing("")).await.expect("attached");
        assert_eq!(from_attacker(), BTreeSet::new());
        assert!(kernel.dropped()[&DropReason::SpoofedAddress] >= before + 5, "{:?}", kernel.dropped());
    });
}

/// Tells whether a datagram that `send` sends arrives at a container, whatever it was for.
fn arrives(at: &Container, send: impl FnOnce()) -> bool {
    let receiver = at.run(|| UdpSocket::bind("0.0.0.0:7001").expect("a bound socket"));
    receiver.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
    send();
    receiver.recv(&mut [0; 16]).is_ok()
}

#[test]
fn an_exposed_host_is_a_member_of_its_subnets_and_no_way_between_them() {
    on_host(|Host { kernel, config, .. }| async move {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a host that routes");
        let Containers { attacker, apart, .. } = &Containers::attach(&kernel).await;
        let exposed = |addresses: &[&str]| {
            let exposure = |text: &&str| Exposure { address: text.parse().expect("valid"), masquerade: true };
            addresses.iter().map(exposure).collect::<Vec<_>>()
        };
        let from_host = |to: &str| {
            let sent = UdpSocket::bind("0.0.0.0:0").expect("bound").send_to(b"weft", (to, 7001));
            assert_eq!(sent.expect("sent"), 4);
        };
        kernel.set_exposed(exposed(&["10.1.0.9/24", "10.2.0.9/24"])).await.expect("exposed");
        assert!(arrives(attacker, || from_host("10.1.0.1")), "the host is a member of one");
        assert!(arrives(apart, || from_host("10.2.0.3")), "and of the other");
        attacker.output("ip", &["route", "add", "10.2.0.0/24", "via", "10.1.0.9"]);
        assert!(!attacker.reaches(apart, "10.2.0.3"), "the host carries it over");
        let forward = output("nft", &["list", "chain", "inet", "weft", "forward"]);
        let dropped =
            forward.lines().find(|line| line.contains(r#"iifname "weft" oifname "weft""#) && line.contains("drop"));
        assert!(dropped.is_some_and(|rule| !rule.contains("packets 0 ")), "it was not sent: {forward}");
        assert_eq!(kernel.prepare().await.expect("prepared"), 0, "all is as it should be");

        // What the host says to all goes to members alone.
        kernel.set_exposed(exposed(&["10.1.0.9/24"])).await.expect("exposed");
        let to_all = || {
            let socket = UdpSocket::bind("10.1.0.9:0").expect("bound");
            let socket = socket2::Socket::from(socket);
            socket.bind_device(Some(b"weft")).expect("bound to the bridge");
            socket.set_broadcast(true).expect("set");
            let all: std::net::SocketAddr = "255.255.255.255:7001".parse().expect("an address");
            socket.send_to(b"weft", &all.into()).expect("sent");
        };
        assert!(arrives(attacker, to_all), "a member gets it");
        assert!(!arrives(apart, to_all), "it reaches who is no member");

        // Nor is it enough that addresses look like members'.
        kernel.set_exposed(exposed(&["10.1.0.9/12"])).await.expect("exposed");
        let before = kernel.dropped().get(&DropReason::ForeignSubnet).copied().unwrap_or_default();
        let neighbour = config.bridge_mac.to_string();
        attacker.run(move || {
            output("ip", &["neigh", "replace", "10.1.0.9", "lladdr", &neighbour, "dev", "ethwe", "nud", "permanent"]);
        });
        let service = UdpSocket::bind("10.1.0.9:7001").expect("bound");
        service.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
        attacker.run(|| UdpSocket::bind("0.0.0.0:0").expect("bound").send_to(b"weft", "10.1.0.9:7001").expect("sent"));
        assert!(service.recv(&mut [0; 16]).is_err(), "the host is reached from a smaller subnet");
        assert_eq!(kernel.dropped()[&DropReason::ForeignSubnet], before + 1);
        attacker.output("ip", &["route", "replace", "10.2.0.0/24", "via", "10.1.0.9"]);
        assert!(!attacker.reaches(apart, "10.2.0.3"), "through the host");
    });
}
