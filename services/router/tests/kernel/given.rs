//! What a container was given is what the router says it was, whatever the container shows.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use weft_router::kernel::{AttachSpec, Kernel, KernelConfig};
use weft_router_core::forward::DropReason;

use crate::{
    raw::{Raw, UNKNOWN_KIND, frame, tag},
    support::{Container, Host, eventually, on_host, output},
};

fn net(text: &str) -> IpNet {
    text.parse().expect("an address")
}

/// Returns what listings show of the guard of ports.
fn guard() -> String {
    output("nft", &["list", "table", "bridge", "weft"])
}

/// Tells whether any port may send from the address.
fn permitted(address: &str) -> bool {
    let address: IpAddr = address.parse().expect("an address");
    guard().contains(&format!(". {address} comment"))
}

/// Returns which ports are in a subnet, as listings show it.
fn members(subnet: &str) -> String {
    let set = format!("ports-{subnet}").replace(':', "_");
    output("nft", &["list", "set", "bridge", "weft", &set])
}

#[test]
fn without_ipv6_a_detached_container_leaves_the_subnets_of_both_families() {
    on_host(|Host { kernel, config, .. }| async move {
        drop(kernel);
        // IPv6 needs 1280 bytes.
        let kernel = Kernel::start(KernelConfig { mtu: 1200, ..config }).expect("privileges");
        kernel.prepare().await.expect("prepared");
        let (one, stays) = (Container::start("a1"), Container::start("b2"));
        for (container, last) in [(&one, 1), (&stays, 2)] {
            let addresses = ["10.1.0.", "10.2.0.", "fd12:0:0:1::", "fd12:0:0:2::"]
                .map(|subnet| format!("{subnet}{last}/{}", if subnet.contains(':') { 64 } else { 24 }));
            let attached = kernel.attach(container.spec(&addresses.each_ref().map(String::as_str))).await;
            assert_eq!(attached.expect("attached").addresses.len(), 2, "only those of IPv4");
        }
        assert!(members("fd12:0:0:2::/64").contains("vethwa1"));

        let taken = [net("10.2.0.1/24"), net("fd12:0:0:2::1/64")];
        assert_eq!(kernel.detach(one.id.clone(), taken.to_vec()).await.expect("detached"), taken);
        assert!(!permitted("10.2.0.1") && !permitted("fd12:0:0:2::1"), "{}", guard());
        for subnet in ["10.2.0.0/24", "fd12:0:0:2::/64"] {
            assert!(!members(subnet).contains("vethwa1") && members(subnet).contains("vethwb2"), "{}", members(subnet));
        }
        assert!(one.reaches(&stays, "10.1.0.2"), "it keeps the others");
        let all = [net("10.1.0.1/24"), net("fd12:0:0:1::1/64")];
        assert_eq!(kernel.detach(one.id.clone(), Vec::new()).await.expect("detached"), all);
    });
}

#[test]
fn an_address_that_the_container_deleted_is_withdrawn_all_the_same() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let (one, two) = (Container::start("a1"), Container::start("b2"));
        for (container, last) in [(&one, 1), (&two, 2)] {
            let addresses = [format!("10.1.0.{last}/24"), format!("10.2.0.{last}/24")];
            kernel.attach(container.spec(&addresses.each_ref().map(String::as_str))).await.expect("attached");
        }
        one.output("ip", &["address", "delete", "10.2.0.1/24", "dev", "ethwe"]);
        let taken = vec![net("10.2.0.1/24")];
        assert_eq!(kernel.detach(one.id.clone(), taken.clone()).await.expect("detached"), taken);
        assert!(!permitted("10.2.0.1") && !members("10.2.0.0/24").contains("vethwa1"), "{}", guard());

        // What it hides from there on takes nothing else along.
        two.output("ip", &["address", "flush", "dev", "ethwe"]);
        let taken = vec![net("10.2.0.2/24")];
        assert_eq!(kernel.detach(two.id.clone(), taken.clone()).await.expect("detached"), taken);
        let shown = |container: &Container| container.output("ip", &["-4", "-o", "address", "show", "dev", "ethwe"]);
        eventually("given back", || shown(&two).contains("10.1.0.2/24")).await;
        assert!(one.reaches(&two, "10.1.0.2"));
        for (container, address) in [(&one, "10.2.0.1"), (&two, "10.2.0.2")] {
            assert!(
                !shown(container).contains(address) && !permitted(address),
                "it is given back: {}",
                shown(container)
            );
        }
        let observed = kernel.observe().await.expect("listed");
        let addresses: BTreeSet<IpNet> = observed.into_iter().flat_map(|one| one.addresses).collect();
        assert_eq!(addresses, [net("10.1.0.1/24"), net("10.1.0.2/24")].into());

        // Nor does another prefix length keep it there.
        one.output("ip", &["address", "add", "10.2.0.1/16", "dev", "ethwe"]);
        assert_eq!(kernel.detach(one.id.clone(), vec![net("10.2.0.1/24")]).await.expect("detached"), []);
        assert!(!shown(&one).contains("10.2.0.1"));
    });
}

#[test]
fn a_failed_attempt_leaves_permitted_what_was() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let (one, two) = (Container::start("a1"), Container::start("b2"));
        kernel.attach(one.spec(&["10.1.0.1/24"])).await.expect("attached");
        kernel.attach(two.spec(&["10.1.0.2/24", "10.2.0.2/24"])).await.expect("attached");
        // Nobody can have a group's address.
        let floats = AttachSpec {
            allowed: "10.1.0.100".parse().expect("an address"),
            ..one.spec(&["10.1.0.9/24", "10.2.0.9/24", "ff02::77/64"])
        };
        kernel.attach(floats).await.expect_err("refused");
        assert!(!permitted("10.1.0.9") && !permitted("10.1.0.100") && permitted("10.1.0.1"), "{}", guard());
        assert!(!members("10.2.0.0/24").contains("vethwa1"));
        let observed = kernel.observe().await.expect("listed");
        assert_eq!(observed[0].addresses, [net("10.1.0.1/24")]);
        assert!(one.reaches(&two, "10.1.0.2"), "it goes on as it was");
    });
}

#[test]
fn each_dropped_frame_is_counted_once_whatever_happens_to_the_rules() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let (one, two) = (Container::start("a1"), Container::start("b2"));
        for (container, address) in [(&one, "10.1.0.1/24"), (&two, "10.1.0.2/24")] {
            kernel.attach(container.spec(&[address])).await.expect("attached");
        }
        let (to, foreign) = (two.spec(&[]).mac.octets(), [2, 0, 0, 0, 0, 9]);
        let forge = |count: u16| {
            one.run(move || {
                let mut socket = Raw::open().expect("a packet socket");
                (0..count).for_each(|n| socket.send(&frame(to, foreign, UNKNOWN_KIND, &tag(n))).expect("sent"));
            });
        };
        let dropped = || kernel.dropped().get(&DropReason::SpoofedSource).copied().unwrap_or_default();
        let there = || output("nft", &["list", "tables"]).contains("bridge weft");
        forge(3);
        eventually("counted", || dropped() == 3).await;
        output("nft", &["delete", "table", "bridge", "weft"]);
        eventually("repaired", there).await;
        forge(5);
        eventually("counted with the table that was flushed", || dropped() == 8).await;
        // A subnet that nobody was in takes another table.
        kernel.attach(two.spec(&["10.2.0.2/24"])).await.expect("attached");
        forge(9);
        eventually("counted with the table that was replaced", || dropped() == 17).await;
        assert_eq!(dropped(), 17, "and not again");
    });
}

#[test]
fn what_a_container_shows_is_not_believed_where_the_kernel_remembers_nothing() {
    on_host(|Host { kernel, config, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let (one, two) = (Container::start("a1"), Container::start("b2"));
        for (container, last) in [(&one, 1), (&two, 2)] {
            kernel.attach(container.spec(&[&format!("10.1.0.{last}/24")])).await.expect("attached");
        }
        drop(kernel);
        one.output("ip", &["address", "add", "10.1.0.66/24", "dev", "ethwe"]);
        output("nft", &["flush", "ruleset"]);
        for _ in 0..2 {
            // Nor does a second restart take what is there since the first for what was given.
            let kernel = Kernel::start(config.clone()).expect("privileges");
            kernel.prepare().await.expect("prepared");
            let observed = kernel.observe().await.expect("listed");
            assert_eq!(observed.len(), 2);
            assert!(observed.iter().all(|one| one.addresses.is_empty()), "it is published: {observed:?}");
            assert!(one.reaches(&two, "10.1.0.2"), "who is honest goes on meanwhile");
        }
        let kernel = Kernel::start(config).expect("privileges");
        kernel.prepare().await.expect("prepared");
        let attached = kernel.attach(one.spec(&["10.1.0.1/24"])).await.expect("attached");
        assert_eq!(attached.addresses, [net("10.1.0.1/24")]);
        assert!(permitted("10.1.0.1") && !permitted("10.1.0.66"), "{}", guard());
        let observed = kernel.observe().await.expect("listed");
        assert_eq!(observed[0].addresses, [net("10.1.0.1/24")]);
        // From then on others are added, as always.
        kernel.attach(one.spec(&["10.1.0.9/24"])).await.expect("attached");
        assert!(permitted("10.1.0.1") && permitted("10.1.0.9"));
    });
}
