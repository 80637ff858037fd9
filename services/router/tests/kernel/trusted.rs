//! VXLAN with trusted peers, as the kernel has it.

use std::collections::BTreeMap;

use weft_router::kernel::{DesiredTrusted, TrustedLink};
use weft_types::MacAddress;

use crate::support::{Host, eventually, now, on_host, output};

const MAC: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 9]);

fn link(vni: u32, used: bool) -> TrustedLink {
    let (local, remote) = match vni {
        6 => ("fd09::1", "fd09::2"),
        _ => ("192.0.2.1", "192.0.2.2"),
    };
    let address = |text: &str| text.parse().expect("an address");
    let sources = [address("10.32.0.9"), address("fd10::9")].into();
    TrustedLink { vni, local: address(local), remote: address(remote), sources: BTreeMap::from([(MAC, sources)]), used }
}

fn desired(links: Vec<TrustedLink>) -> DesiredTrusted {
    DesiredTrusted { enabled: true, mtu: 1400, links, ahead: 0 }
}

#[test]
fn devices_and_their_filter_are_kept_and_removed() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        kernel.set_trusted(desired(vec![link(4, true), link(6, false)])).await.expect("set");
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
        let keys = output("nft", &["list", "ruleset"]);
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
                let rules = output("nft", &["list", "ruleset"]);
                rules.contains("table inet weft-vxlan")
                    && rules.contains("10.32.0.9")
                    && entries().contains(&format!("{MAC} dev weft-vx000004"))
            })
            .await;
            assert!(start.elapsed() < std::time::Duration::from_secs(1), "{damage:?} took {:?}", start.elapsed());
        }

        kernel.set_trusted(desired(vec![link(4, false)])).await.expect("set");
        assert!(!entries().contains(&MAC.to_string()));
        assert!(!output("ip", &["-br", "link"]).contains("weft-vx000006"));
        kernel.set_trusted(DesiredTrusted::default()).await.expect("set");
        assert!(!output("ip", &["-br", "link"]).contains("weft-vx"));
        assert!(!output("nft", &["list", "ruleset"]).contains("weft-vxlan"));

        kernel.set_trusted(desired(vec![link(4, true)])).await.expect("set");
        kernel.remove_all().await.expect("removed");
        assert!(!output("ip", &["-br", "link"]).contains("weft"));
        assert_eq!(output("nft", &["list", "ruleset"]), "");
    });
}

#[test]
fn who_was_let_in_ahead_is_not_shut_out_by_an_older_desire() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let none = TrustedLink { sources: BTreeMap::new(), ..link(4, true) };
        kernel.set_trusted(desired(vec![none.clone()])).await.expect("set");
        let is_let_in = || output("nft", &["list", "ruleset"]).contains("10.32.0.9");
        let mut sources = kernel.sources().expect("nftables");
        let before = sources.ahead();
        sources.add(&[link(4, true)]).expect("let in");
        assert!(is_let_in());
        kernel.set_trusted(DesiredTrusted { ahead: before, ..desired(vec![none.clone()]) }).await.expect("set");
        assert_eq!(kernel.prepare().await.expect("prepared"), 0, "nothing is to be done");
        assert!(is_let_in(), "an older desire");
        kernel.set_trusted(DesiredTrusted { ahead: sources.ahead(), ..desired(vec![none]) }).await.expect("set");
        assert!(!is_let_in(), "a newer one");
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
