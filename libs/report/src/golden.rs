//! What the command prints for fixed messages.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use weft_proto::{common::v1 as common, dns::v1 as dns, ipam::v1 as ipam, proxy::v1 as proxy, router::v1 as router};

use super::*;
use crate::ServiceError;

fn peer(n: u8) -> Option<common::PeerName> {
    Some(PeerName::from_public_key([n; 32]).into())
}

fn net(text: &str) -> common::IpPrefix {
    text.parse::<IpNet>().expect("valid").into()
}

fn at(text: &str) -> Option<common::Endpoint> {
    Some(text.parse::<SocketAddr>().expect("valid").into())
}

fn problem(reason: &str, message: &str, age_seconds: u64) -> common::Problem {
    common::Problem { reason: reason.to_owned(), message: message.to_owned(), age_seconds }
}

fn router() -> router::GetStatusResponse {
    let target = |text: &str, state, problem, retry_seconds| router::Target {
        text: text.to_owned(),
        state: i32::from(state),
        problem,
        retry_seconds,
    };
    let refused = problem("wrong_password", "host4 has another password", 75);
    let away = problem("unreachable", "host3:6783 does not answer: connection refused", 30);
    let link = |n, address, outbound, data_direct| router::PeerLink {
        remote: peer(n),
        endpoint: at(address),
        outbound,
        data_direct,
        ..router::PeerLink::default()
    };
    let way = |kind: router::PathKind, relay: &str, reason: &str| router::DataPath {
        kind: kind.into(),
        relay: relay.to_owned(),
        in_use: reason.is_empty(),
        round_trip_micros: 900,
        reason: reason.to_owned(),
        ..router::DataPath::default()
    };
    router::GetStatusResponse {
        version: "0.1.0".to_owned(),
        peer_name: peer(1),
        name: "01010101".to_owned(),
        nickname: "host1".to_owned(),
        encrypted: true,
        password_set: true,
        discovery: true,
        port: 6783,
        address_range: Some(net("10.32.0.0/12")),
        targets: vec![
            target("host2", router::TargetState::Connected, None, None),
            target("host3:6783", router::TargetState::Waiting, Some(away), Some(5)),
            target("host4", router::TargetState::Refused, Some(refused), None),
        ],
        connections: vec![
            router::Connection {
                peer_name: peer(2),
                name: "02020202".to_owned(),
                nickname: "host2".to_owned(),
                endpoint: at("192.0.2.2:6783"),
                outbound: true,
                state: router::ConnectionState::Established.into(),
                path: router::PathKind::DirectUdp.into(),
                data_endpoint: at("192.0.2.2:6783"),
                round_trip_micros: 1042,
                cipher: "AES-256-GCM".to_owned(),
                sent_bytes: 1536,
                received_bytes: 3 << 30,
                ..router::Connection::default()
            },
            router::Connection {
                peer_name: peer(5),
                name: "05050505".to_owned(),
                nickname: "host5".to_owned(),
                endpoint: at("[2001:db8::5]:40000"),
                state: router::ConnectionState::Pending.into(),
                path: router::PathKind::None.into(),
                problem: Some(problem(
                    "udp_blocked",
                    "no datagram arrives from host5: open UDP 6783 in its firewall",
                    7,
                )),
                ..router::Connection::default()
            },
        ],
        peers: vec![
            router::Peer {
                peer_name: peer(2),
                name: "02020202".to_owned(),
                nickname: "host2".to_owned(),
                state: router::PeerState::Reachable.into(),
                links: vec![link(1, "192.0.2.1:51234", false, true)],
                data_paths: vec![
                    way(router::PathKind::DirectUdp, "", ""),
                    way(router::PathKind::Stream, "", "slower"),
                    way(router::PathKind::Kernel, "", "02020202 has no trusted subnets"),
                ],
                ..router::Peer::default()
            },
            router::Peer {
                peer_name: peer(7),
                name: "07070707".to_owned(),
                nickname: "host7".to_owned(),
                state: router::PeerState::Reachable.into(),
                data_paths: vec![
                    way(router::PathKind::Relay, "02020202", ""),
                    router::DataPath {
                        endpoint: at("192.0.2.7:6783"),
                        ..way(router::PathKind::DirectUdp, "", "no answer to UDP probes")
                    },
                ],
                cipher: "AES-256-GCM".to_owned(),
                sent_bytes: 2048,
                ..router::Peer::default()
            },
            router::Peer {
                peer_name: peer(1),
                name: "01010101".to_owned(),
                nickname: "host1".to_owned(),
                state: router::PeerState::Local.into(),
                links: vec![link(2, "192.0.2.2:6783", true, true), link(5, "[2001:db8::5]:40000", false, false)],
                ..router::Peer::default()
            },
            router::Peer {
                peer_name: peer(6),
                name: "06060606".to_owned(),
                nickname: "host6".to_owned(),
                state: router::PeerState::Unreachable.into(),
                ..router::Peer::default()
            },
        ],
        data_plane: Some(router::DataPlaneStatus {
            bridge: "weft".to_owned(),
            mtu_bytes: 1400,
            missing_facilities: vec!["UDP_GRO".to_owned()],
            ..router::DataPlaneStatus::default()
        }),
        problems: vec![problem("no_forward_rule", "the host's firewall drops frames of the bridge weft", 3)],
        trusted_subnets: vec![net("192.0.2.0/24"), net("2001:db8::/32")],
    }
}

fn ipam() -> ipam::GetStatusResponse {
    let share = |n, owned, reachable| ipam::PeerShare {
        peer_name: peer(n),
        name: format!("{n:02}").repeat(4),
        nickname: format!("host{n}"),
        owned,
        free: owned,
        reachable,
    };
    ipam::GetStatusResponse {
        state: ipam::RingState::Ready.into(),
        range: Some(net("10.32.0.0/12")),
        default_subnet: Some(net("10.32.0.0/12")),
        ula_prefix: Some(net("fd12:3456:789a::/48")),
        shares: vec![share(6, 262_144, false), share(1, 786_432, true)],
        pending: vec![ipam::PendingRequest {
            container_id: "0123456789abcdef".to_owned(),
            subnet: Some(net("10.33.0.0/24")),
            problem: Some(problem("no_space", "all of 10.33.0.0/24 belongs to host6, which cannot be reached", 2)),
        }],
        allocated: 3,
        ..ipam::GetStatusResponse::default()
    }
}

fn text(value: &impl fmt::Display) -> String {
    let text = value.to_string();
    assert!(text.lines().all(|line| line.trim_end() == line), "no blanks at the ends of lines: {text}");
    text
}

#[test]
fn status() {
    let dns = dns::GetStatusResponse {
        zone: "weft.internal.".to_owned(),
        address: at("169.254.83.53:53"),
        upstreams: ["192.0.2.53:53", "[2001:db8::53]:53"].map(|server| dns::Upstream { endpoint: at(server) }).into(),
        ttl_seconds: 1,
        records: 8,
        ..dns::GetStatusResponse::default()
    };
    let proxy = ServiceError::Refused("docker-proxy is not running".to_owned());
    let mut status = Status::new(&Ok(router()), &Ok(ipam()), &Ok(dns), &Err(proxy));
    status.version = "0.1.0".to_owned();
    assert!(!status.is_whole());
    assert_eq!(
        text(&status),
        "        Version: 0.1.0

        Service: router
           Name: 01010101(host1)
     Encryption: enabled
  PeerDiscovery: enabled
           Port: 6783
        Targets: 3
    Connections: 4 (1 established, 1 pending, 1 retrying, 1 failed)
          Peers: 4 (with 2 established, 1 pending connections), 1 unreachable
 TrustedSubnets: 192.0.2.0/24, 2001:db8::/32
         Bridge: weft (MTU 1400)
        Without: UDP_GRO
        Problem: the host's firewall drops frames of the bridge weft (for 3s)

        Service: ipam
         Status: waiting for IP(s) to become available
          Range: 10.32.0.0/12
  DefaultSubnet: 10.32.0.0/12
           IPv6: fd12:3456:789a::/48
         Active: 3

        Service: dns
         Domain: weft.internal.
        Address: 169.254.83.53:53
       Upstream: 192.0.2.53:53, [2001:db8::53]:53
            TTL: 1
        Entries: 8

        Service: proxy
        Problem: docker-proxy is not running
"
    );
    let json = serde_json::to_value(&status).expect("serializes");
    assert_eq!(json["router"]["connections"]["retrying"], 1);
    assert_eq!(json["router"]["problems"][0]["age_seconds"], 3);
    assert_eq!(json["proxy"]["away"]["reason"], "refused");
}

#[test]
fn status_of_a_proxy() {
    let listener = |address: &str, tls, client_certificates| proxy::Listener {
        address: address.to_owned(),
        tls,
        client_certificates,
    };
    let mut status = proxy::GetStatusResponse {
        listeners: vec![
            listener("unix:///run/weft/docker/docker.sock", false, false),
            listener("tcp://127.0.0.1:12375", false, false),
            listener("tcp://[::1]:12375", true, false),
            listener("tcp://192.0.2.1:12376", true, true),
        ],
        engine_socket: "/var/run/docker.sock".to_owned(),
        engine_version: "20.10.24".to_owned(),
        engine_api_version: "1.41".to_owned(),
        attached_containers: 2,
        ..proxy::GetStatusResponse::default()
    };
    let section = ProxySection::from(&status);
    assert_eq!(
        text(&section),
        "        Address: unix:///run/weft/docker/docker.sock
        Address: tcp://127.0.0.1:12375 (without TLS)
        Address: tcp://[::1]:12375 (TLS, without client certificates)
        Address: tcp://192.0.2.1:12376 (TLS, with client certificates)
         Engine: 20.10.24 (API 1.41)
     Containers: 2 attached
"
    );
    let json = serde_json::to_value(&section).expect("serializes");
    let expected = serde_json::json!({"address": "tcp://192.0.2.1:12376", "tls": true, "client_certificates": true});
    assert_eq!(json["listeners"][3], expected);
    assert_eq!(json["addresses"][3], "tcp://192.0.2.1:12376");
    status.engine_version.clear();
    assert!(text(&ProxySection::from(&status)).contains("Engine: no answer yet on /var/run/docker.sock\n"));
}

#[test]
fn status_connections() {
    let connections = Connections::new(&router());
    assert_eq!(
        text(&connections),
        "-> 192.0.2.2:6783        established encrypted   direct-udp 02020202(host2)          cipher=AES-256-GCM rtt=1.042ms sent=1.5KiB received=3.0GiB
   not kernel: 02020202 has no trusted subnets
<- [2001:db8::5]:40000   pending     -           none       05050505(host5)
   no datagram arrives from host5: open UDP 6783 in its firewall (for 7s)
~> -                     established encrypted   relay      07070707(host7)          cipher=AES-256-GCM rtt=0.900ms over=02020202 sent=2.0KiB
   not direct-udp 192.0.2.7:6783: no answer to UDP probes
-> host3:6783            retrying    host3:6783 does not answer: connection refused (for 30s), retry: 5s
-> host4                 failed      host4 has another password (for 1m15s), retry: never
"
    );
    let json = serde_json::to_value(&connections).expect("serializes");
    assert_eq!(json["connections"][0]["peer"]["key"], "02".repeat(32));
    assert_eq!(json["connections"][0]["ways"][1]["reason"], "slower");
    assert_eq!(json["over_others"][0]["relay"], "02020202");
    assert_eq!(json["targets"][1]["problem"]["reason"], "wrong_password");
}

#[test]
fn status_connections_by_the_kernel() {
    let mut status = router();
    status.connections.truncate(1);
    status.connections[0].path = router::PathKind::Kernel.into();
    let kernel = router::DataPath {
        kind: router::PathKind::Kernel.into(),
        endpoint: at("192.0.2.2:6784"),
        in_use: true,
        sent_bytes: 512,
        received_bytes: 1 << 30,
        ..router::DataPath::default()
    };
    status.peers[0].data_paths = vec![kernel];
    let shown = text(&Connections::new(&status));
    assert_eq!(
        shown.lines().next(),
        Some(
            "-> 192.0.2.2:6783        established unencrypted kernel     02020202(host2)          cipher=AES-256-GCM rtt=1.042ms \
             sent=2.0KiB received=4.0GiB"
        )
    );
    let json = serde_json::to_value(Connections::new(&status)).expect("JSON");
    let connection = &json["connections"][0];
    assert_eq!((&connection["sent_bytes"], &connection["ways"][0]["sent_bytes"]), (&2048.into(), &512.into()));
    assert_eq!(connection["received_bytes"], 4_u64 << 30);
}

#[test]
fn a_report_is_whole_if_nothing_is_missing() {
    let refused = ServiceError::Refused("the answer is too large".to_owned());
    let (router, dns) = (router(), dns::GetStatusResponse::default());
    let whole = |names: Result<(), &ServiceError>| {
        let (router, dns) = (Ok(router.clone()), Ok(dns.clone()));
        let (ipam, proxy) = (Ok(ipam()), Ok(proxy::GetStatusResponse::default()));
        Whole {
            status: Status::new(&router, &ipam, &dns, &proxy),
            peers: Section::made(router.as_ref(), Peers::new),
            connections: Section::made(router.as_ref(), Connections::new),
            targets: Section::made(router.as_ref(), Targets::new),
            services: Section::made(Ok(()), |()| PassedOn::new(&[], &[])),
            ipam: Section::made(ipam.as_ref(), |status| Ipam::new(status, None)),
            dns: Section::made(names, |()| Names::new("weft.internal.", &[])),
            ps: Section::made(Ok(()), |()| Containers::new([].iter())),
        }
    };
    assert!(whole(Ok(())).is_whole());
    assert!(!whole(Err(&refused)).is_whole(), "every service has answered, but not for all");
}

#[test]
fn status_targets() {
    assert_eq!(
        text(&Targets::new(&router())),
        "host2                    connected
host3:6783               retrying    host3:6783 does not answer: connection refused (for 30s), retry: 5s
host4                    failed      host4 has another password (for 1m15s), retry: never
"
    );
}

#[test]
fn status_peers() {
    assert_eq!(
        text(&Peers::new(&router())),
        "01010101(host1)
   -> 192.0.2.2:6783        02020202(host2)                       established
   <- [2001:db8::5]:40000   05050505(?)                           pending
02020202(host2)
   <- 192.0.2.1:51234       01010101(host1)                       established
06060606(host6) - unreachable, its names are suspended
07070707(host7)
"
    );
}

#[test]
fn status_ipam() {
    assert_eq!(
        text(&Ipam::new(&ipam(), peer(1).as_ref())),
        "01010101(host1)                         786432 IPs (75.0% of total) (3 active)
06060606(host6)                         262144 IPs (25.0% of total) - unreachable!
0123456789ab waits for an address of 10.33.0.0/24: all of 10.33.0.0/24 belongs to host6, which cannot be reached (for 2s)
"
    );
    let electing = ipam::GetStatusResponse {
        state: ipam::RingState::Electing.into(),
        voters: 3,
        voters_heard: 1,
        ..ipam::GetStatusResponse::default()
    };
    assert_eq!(IpamSection::from(&electing).state, "awaiting consensus (voters: 3, heard: 1)");
    assert_eq!(text(&Ipam::new(&electing, None)), "");
}

#[test]
fn status_dns() {
    let record = |name: &str, addresses: &[&str], n: u8, unhealthy, suspended| dns::Record {
        name: format!("{name}.weft.internal."),
        addresses: addresses.iter().map(|text| text.parse::<IpAddr>().expect("valid").into()).collect(),
        container_id: "0123456789abcdef".to_owned(),
        origin: peer(n),
        origin_name: format!("{n:02}").repeat(4),
        origin_nickname: format!("host{n}"),
        unhealthy,
        suspended,
        by_hand: false,
        waiting: false,
    };
    let by_hand = |record| dns::Record { by_hand: true, ..record };
    let waiting = |record| dns::Record { waiting: true, ..by_hand(record) };
    let records = [
        by_hand(record("alias", &["10.32.0.1"], 1, false, false)),
        by_hand(record("worse", &["10.32.0.1"], 1, true, false)),
        waiting(record("later", &["10.32.0.1"], 1, false, true)),
        record("web", &["10.40.0.2"], 6, false, true),
        record("db", &["10.32.0.1", "fd00::1"], 1, false, false),
        record("sick", &[], 1, true, false),
    ];
    assert_eq!(
        text(&Names::new("weft.internal.", &records)),
        "alias        10.32.0.1       0123456789ab 01010101(host1) - by hand
db           10.32.0.1       0123456789ab 01010101(host1)
db           fd00::1         0123456789ab 01010101(host1)
later        10.32.0.1       0123456789ab 01010101(host1) - waits for its container, by hand
sick         -               0123456789ab 01010101(host1) - unhealthy
web          10.40.0.2       0123456789ab 06060606(host6) - suspended, its host cannot be reached
worse        10.32.0.1       0123456789ab 01010101(host1) - unhealthy, by hand
"
    );
}

#[test]
fn ps() {
    let containers = [
        proxy::Container {
            container_id: "0123456789abcdef".to_owned(),
            name: "db".to_owned(),
            state: proxy::ContainerState::Attached.into(),
            mac: Some(common::MacAddress { octets: vec![2, 0, 0, 0, 0, 1] }),
            addresses: vec![net("10.32.0.1/12"), net("fd00::1/108")],
            ..proxy::Container::default()
        },
        proxy::Container {
            container_id: "fedcba9876543210".to_owned(),
            state: proxy::ContainerState::Attaching.into(),
            problem: Some(problem("no_ring", "no address yet: ipam waits for a peer", 4)),
            ..proxy::Container::default()
        },
    ];
    let of_address = |text: &str| text.parse::<IpAddr>().expect("valid").into();
    let range = ["10.40.0.104", "10.40.0.105", "10.40.0.106", "10.40.0.107", "10.40.0.100", "fd00::7"];
    let attachments = [router::Attachment {
        container_id: "0123456789abcdef".to_owned(),
        allowed: range.map(of_address).into(),
        ..router::Attachment::default()
    }];
    let floating = Containers::new(containers.iter()).with_floating(&attachments);
    assert_eq!(
        text(&floating).lines().next(),
        Some("0123456789ab 02:00:00:00:00:01 10.32.0.1/12 fd00::1/108 floating=10.40.0.100,10.40.0.104/30,fd00::7")
    );
    let json = serde_json::to_value(&floating).expect("serializes");
    let listed = serde_json::json!(["10.40.0.100", "10.40.0.104/30", "fd00::7"]);
    assert_eq!(json["containers"][0]["floating_addresses"], listed);
    assert_eq!(json["containers"][1]["floating_addresses"], serde_json::json!([]));
    let counted = Floating::new(&[attachments.as_slice(), &attachments].concat());
    assert_eq!(counted.to_string(), "6 permitted to 2 containers", "several may be permitted one");
    assert_eq!(
        text(&Containers::new(containers.iter())),
        "0123456789ab 02:00:00:00:00:01 10.32.0.1/12 fd00::1/108
fedcba987654 attaching - no address yet: ipam waits for a peer (for 4s)
"
    );
}
