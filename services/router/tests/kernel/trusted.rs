//! VXLAN with trusted peers, as the kernel has it.

use std::{collections::BTreeMap, net::UdpSocket, sync::Arc, time::Duration};

use weft_router::kernel::{DesiredTrusted, Kernel, TrustedLink, TrustedState};
use weft_types::MacAddress;

use crate::support::{Container, Host, eventually, now, on_host, output};

const MAC: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 9]);

fn link(vni: u32, used: bool) -> TrustedLink {
    let (local, remote) = match vni {
        6 => ("fd09::1", "fd09::2"),
        _ => ("192.0.2.1", "192.0.2.2"),
    };
    let address = |text: &str| text.parse().expect("an address");
    let sources = [address("10.32.0.9"), address("fd10::9")].into();
    let sources = Arc::new(BTreeMap::from([(MAC, sources)]));
    TrustedLink { vni, local: address(local), remote: address(remote), sources, used }
}

fn desired(links: Vec<TrustedLink>) -> DesiredTrusted {
    DesiredTrusted { enabled: true, mtu: 1400, links }
}

/// Returns all that the kernel filters by for VXLAN.
fn rules() -> String {
    let tables = output("nft", &["list", "tables"]);
    let ours =
        tables.lines().filter_map(|table| table.strip_prefix("table ")).filter(|table| table.contains("weft-vxlan"));
    ours.map(|table| output("nft", &["list table", table].join(" ").split(' ').collect::<Vec<_>>())).collect()
}

/// Has the kernel do all of it.
async fn set(kernel: &Kernel, desired: DesiredTrusted) {
    let made = desired.links.iter().map(|link| link.vni).collect();
    let state = kernel.set_trusted(desired, 0).await.expect("the worker runs");
    assert_eq!(state, TrustedState { made, refused: String::new() });
}

#[test]
fn devices_and_their_filter_are_kept_and_removed() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        set(&kernel, desired(vec![link(4, true), link(6, false)])).await;
        assert_eq!(kernel.problems(), []);
        assert_eq!(kernel.prepare().await.expect("prepared"), 0, "all is as it should be");
        let device = output("ip", &["-d", "link", "show", "weft-vx000004"]);
        for fact in
            ["id 4", "remote 192.0.2.2", "local 192.0.2.1", "dstport 6784", "nolearning", "df set", "isolated on"]
        {
            assert!(device.contains(fact), "{fact}: {device}");
        }
        let entries = || output("bridge", &["fdb", "show", "br", "weft"]);
        assert!(entries().contains(&format!("{MAC} dev weft-vx000004")), "{}", entries());
        let keys = rules();
        for fact in ["192.0.2.2 . 0x00040000", "fd09::2 . 0x00060000", "\"weft-vx000004\"", "10.32.0.9", "fd10::9"] {
            let little_endian = fact.replace("0x00040000", "0x00000400").replace("0x00060000", "0x00000600");
            assert!(keys.contains(fact) || keys.contains(&little_endian), "{fact}: {keys}");
        }

        let damages: [&[&str]; 5] = [
            &["nft", "delete", "table", "inet", "weft-vxlan"],
            &["nft", "flush", "ruleset"],
            &["nft", "flush", "set", "bridge", "weft-vxlan", "sources4"],
            &["ip", "link", "delete", "weft-vx000004"],
            &["bridge", "fdb", "delete", "02:00:00:00:00:09", "dev", "weft-vx000004", "master"],
        ];
        for damage in damages {
            output(damage[0], &damage[1..]);
            let start = now();
            eventually("repaired", || {
                let rules = rules();
                rules.contains("table inet weft-vxlan")
                    && rules.contains("10.32.0.9")
                    && entries().contains(&format!("{MAC} dev weft-vx000004"))
            })
            .await;
            assert!(start.elapsed() < Duration::from_secs(1), "{damage:?} took {:?}", start.elapsed());
        }

        set(&kernel, desired(vec![link(4, false)])).await;
        assert!(!entries().contains(&MAC.to_string()));
        assert!(!output("ip", &["-br", "link"]).contains("weft-vx000006"));
        set(&kernel, DesiredTrusted::default()).await;
        assert!(!output("ip", &["-br", "link"]).contains("weft-vx"));
        assert_eq!(rules(), "");

        set(&kernel, desired(vec![link(4, true)])).await;
        kernel.remove_all().await.expect("removed");
        assert!(!output("ip", &["-br", "link"]).contains("weft"));
        assert_eq!(output("nft", &["list", "ruleset"]), "");
    });
}

#[test]
fn who_was_let_in_ahead_is_not_shut_out_by_an_older_desire() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let none = TrustedLink { sources: Arc::default(), ..link(4, true) };
        set(&kernel, desired(vec![none.clone()])).await;
        let is_let_in = || rules().contains("10.32.0.9");
        let sources = kernel.sources().expect("nftables");
        let before = sources.ahead();
        // More than one transaction takes.
        let address = |number: u32| std::net::IpAddr::from((0x0a20_0000 + number).to_be_bytes());
        let many = (10..5000).map(address).chain(["10.32.0.9".parse().expect("an address")]).collect();
        sources.add(vec![TrustedLink { sources: Arc::new([(MAC, many)].into()), ..link(4, true) }]);
        eventually("all are let in", || is_let_in() && rules().contains("10.32.19.135")).await;
        kernel.set_trusted(desired(vec![none.clone()]), before).await.expect("set");
        assert_eq!(kernel.prepare().await.expect("prepared"), 0, "nothing is to be done");
        assert!(is_let_in(), "an older desire");
        kernel.set_trusted(desired(vec![none]), sources.ahead()).await.expect("set");
        assert!(!is_let_in(), "a newer one");
    });
}

#[test]
fn what_is_refused_for_one_peer_is_no_matter_of_the_others() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        output("ip", &["link", "add", "weft-vx000004", "type", "bridge"]);
        let wanted = || desired(vec![link(4, true), link(6, false)]);
        let state = kernel.set_trusted(wanted(), 0).await.expect("the worker runs");
        assert_eq!(state.made, [6].into());
        assert!(state.refused.contains("create the VXLAN device weft-vx000004"), "{}", state.refused);
        let device = output("ip", &["-d", "link", "show", "weft-vx000006"]);
        assert!(device.contains("isolated on") && device.contains("UP"), "{device}");
        let told = || kernel.problems().iter().any(|problem| problem.reason == "vxlan_refused");
        eventually("it is a problem", told).await;
        output("ip", &["link", "delete", "weft-vx000004"]);
        set(&kernel, wanted()).await;
    });
}

#[test]
fn what_a_killed_router_left_goes_at_the_next_start() {
    on_host(|Host { kernel, .. }| async move {
        output(
            "ip",
            &["link", "add", "weft-vx000001", "type", "vxlan", "id", "1", "remote", "192.0.2.2", "dstport", "6784"],
        );
        output("ip", &["link", "add", "other", "type", "vxlan", "id", "2", "remote", "192.0.2.2", "dstport", "4789"]);
        kernel.prepare().await.expect("prepared");
        let links = output("ip", &["-br", "link"]);
        assert!(!links.contains("weft-vx") && links.contains("other"), "{links}");
    });
}

#[test]
fn no_frame_of_a_container_reaches_the_host() {
    const HOST: &str = "192.0.2.77";
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        output("ip", &["link", "set", "lo", "up"]);
        output("ip", &["address", "add", "192.0.2.77/32", "dev", "lo"]);
        for link in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").expect("no other filter");
        }
        let container = Container::start("c1");
        kernel.attach(container.spec(&["10.32.0.5/12"])).await.expect("attached");
        let receiver = UdpSocket::bind((HOST, 7000)).expect("a bound socket");
        receiver.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out");
        container.output("ip", &["route", "add", HOST, "dev", "ethwe"]);
        // The bridge's own address, everybody, and what a bridge keeps to its host (IEEE 802.1Q-2018, table 8-1).
        let bridge = output("ip", &["-o", "link", "show", "weft"]);
        let bridge = bridge.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("its address");
        for mac in [bridge, "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:00", "01:80:c2:00:00:03", "01:80:c2:00:00:0f"] {
            let entry = format!("neigh replace {HOST} lladdr {mac} dev ethwe nud permanent");
            container.run(move || output("ip", &entry.split(' ').collect::<Vec<_>>()));
            container.run(|| {
                let socket = UdpSocket::bind("10.32.0.5:0").expect("a socket");
                socket.send_to(b"weft", (HOST, 7000)).expect("sent")
            });
            assert!(receiver.recv(&mut [0; 16]).is_err(), "for {mac}");
        }
        let rules = output("nft", &["list", "chain", "inet", "weft", "input"]);
        for link in ["\"weft\"", "\"vethw*\""] {
            let dropped = rules.lines().find(|rule| rule.contains(link)).expect("the rule");
            assert!(!dropped.contains("packets 0 "), "it came so far: {rules}");
        }
    });
}
