//! The owner of kernel network state in network namespaces of its own: needs root, nftables and the iptables tools.

#[path = "kernel/dns.rs"]
mod dns;
#[path = "kernel/expose.rs"]
mod expose;
#[path = "common/files.rs"]
mod files;
#[path = "kernel/given.rs"]
mod given;
#[path = "kernel/ports.rs"]
mod ports;
#[path = "kernel/publish.rs"]
mod publish;
#[path = "common/raw.rs"]
mod raw;
#[path = "kernel/support.rs"]
mod support;
#[path = "kernel/trusted.rs"]
mod trusted;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use support::{Container, Host, eventually, now, on_host, output};
use weft_router::kernel::{AttachError, Exposure, HostsFile, Kernel, KernelConfig};

const SIX: &str = "fd12:3456:789a:c::a20";

#[test]
fn preparing_twice_changes_nothing() {
    on_host(|Host { kernel, .. }| async move {
        assert!(kernel.prepare().await.expect("prepared") > 0);
        assert_eq!(kernel.prepare().await.expect("prepared"), 0);
        assert_eq!(kernel.problems(), []);
        let bridge = output("ip", &["-d", "link", "show", "weft"]);
        for fact in ["mtu 1400", "stp_state 0", "mcast_snooping 0", "alias weft", ",UP"] {
            assert!(bridge.contains(fact), "{fact}: {bridge}");
        }
        let tap = output("bridge", &["-d", "link", "show", "dev", "weft-tap"]);
        assert!(tap.contains("master weft") && tap.contains("learning off flood on"), "{tap}");
        assert_eq!(output("ip", &["-6", "address", "show"]), "", "the host is no station of the overlay");
        let rules = output("nft", &["list", "table", "inet", "weft"]);
        assert!(rules.contains("ip daddr 127.0.0.0/8 tcp dport 6784 counter packets 0 bytes 0 drop"), "{rules}");
        assert!(rules.contains(r#"iifname "weft" oifname != "weft" counter"#), "{rules}");
    });
}

#[test]
fn what_others_take_away_is_back_within_a_second() {
    on_host(|Host { kernel, .. }| async move {
        let (one, two) = (Container::start("a1"), Container::start("b2"));
        output(
            "nft",
            &["add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"],
        );
        kernel.prepare().await.expect("prepared");
        kernel.attach(one.spec(&["10.32.0.1/12"])).await.expect("attached");
        kernel.attach(two.spec(&["10.32.0.2/12"])).await.expect("attached");
        let damages: [&[&str]; 7] = [
            &["ip", "link", "set", "weft", "down"],
            &["ip", "link", "delete", "vethwa1a1a1a1a"],
            &["ip", "link", "delete", "weft"],
            &["ip", "link", "delete", "weft-dns"],
            &["nft", "flush", "ruleset", "ip"],
            &["nft", "delete", "table", "inet", "weft"],
            &["ip", "link", "set", "vethwa1a1a1a1a", "nomaster"],
        ];
        for damage in damages {
            output(damage[0], &damage[1..]);
            let start = now();
            if damage[1] == "flush" {
                output(
                    "nft",
                    &[
                        "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
                    ],
                );
            }
            eventually("repaired", || {
                let bridge = output("ip", &["-br", "link"]);
                let up = bridge.lines().any(|line| line.starts_with("weft ") && line.contains(",UP"));
                let ports = output("bridge", &["link"]);
                let fdb = output("bridge", &["fdb", "show"]);
                let rules = output("nft", &["list", "ruleset"]);
                up && ["weft-tap", "weft-dns", "vethwa1a1a1a1a", "vethwb2b2b2b2b"].iter().all(|p| ports.contains(p))
                    && fdb.contains(&one.spec(&[]).mac.to_string())
                    && rules.contains("table inet weft")
                    && rules.contains(r#"iifname "weft" oifname "weft" counter packets"#)
            })
            .await;
            assert!(start.elapsed() < Duration::from_secs(1), "{damage:?} took {:?}", start.elapsed());
            eventually("containers reach each other", || one.reaches(&two, "10.32.0.2")).await;
        }
        // What is left to do after the repairs is nothing.
        eventually("settled", || true).await;
        assert_eq!(kernel.prepare().await.expect("prepared"), 0);
    });
}

#[test]
fn many_are_attached_side_by_side_while_others_leave_and_all_is_compared() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let containers: Vec<Container> = (0x10..0x28).map(|number| Container::start(&format!("{number:x}"))).collect();
        let address = |number: usize| format!("10.32.1.{number}/12");
        for leaver in &containers[..4] {
            kernel.attach(leaver.spec(&["10.32.2.1/12"])).await.expect("attached");
        }
        let attaching = containers[4..].iter().enumerate().map(|(number, container)| {
            let spec = container.spec(&[&address(number)]);
            // Twice the same: the second finds what the first made, whichever comes first.
            let (kernel, again) = (kernel.clone(), spec.clone());
            async move { futures::try_join!(kernel.attach(spec), kernel.attach(again)) }
        });
        let leaving = containers[..4].iter().map(|container| kernel.detach(container.id.clone(), Vec::new()));
        let (attached, left, changes, routes) = futures::join!(
            futures::future::join_all(attaching),
            futures::future::join_all(leaving),
            kernel.prepare(),
            kernel.host_routes(),
        );
        for outcome in attached {
            let (first, second) = outcome.expect("attached");
            assert_eq!(first.addresses, second.addresses);
        }
        assert!(left.into_iter().all(|left| left.is_ok_and(|addresses| addresses.len() == 1)));
        assert_eq!(changes.expect("compared"), 0, "nothing half made is seen");
        routes.expect("listed");
        let observed = kernel.observe().await.expect("listed");
        let expected: Vec<_> = containers[4..].iter().map(|container| container.id.clone()).collect();
        assert_eq!(observed.iter().map(|one| one.container.clone()).collect::<Vec<_>>(), expected);
        for (number, container) in containers[5..].iter().enumerate() {
            assert!(containers[4].reaches(container, address(number + 1).trim_end_matches("/12")));
        }
    });
}

#[test]
fn what_others_take_away_inside_a_container_is_back_within_a_second() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let (one, two) = (Container::start("a1"), Container::start("b2"));
        for (container, number) in [(&one, 1), (&two, 2)] {
            let addresses = [format!("10.32.0.{number}/12"), format!("{SIX}:{number}/108")];
            kernel.attach(container.spec(&addresses.each_ref().map(String::as_str))).await.expect("attached");
        }
        let damages: [&'static [&'static str]; 5] = [
            &["address", "delete", "10.32.0.1/12", "dev", "ethwe"],
            &["-6", "address", "flush", "dev", "ethwe", "scope", "global"],
            &["address", "flush", "dev", "ethwe"],
            &["link", "set", "ethwe", "down"],
            &["link", "delete", "ethwe"],
        ];
        for damage in damages {
            one.output("ip", damage);
            let start = now();
            eventually("given back", || {
                let addresses = one.output("ip", &["address"]);
                let routes = one.output("ip", &["route"]);
                addresses.lines().any(|line| line.contains("ethwe") && line.contains(",UP"))
                    && addresses.contains("10.32.0.1/12")
                    && addresses.contains(&format!("{SIX}:1/108"))
                    && routes.contains("169.254.83.53 dev ethwe")
                    && routes.contains("224.0.0.0/4 dev ethwe")
            })
            .await;
            assert!(start.elapsed() < Duration::from_secs(1), "{damage:?} took {:?}", start.elapsed());
            assert!(one.reaches(&two, "10.32.0.2") && two.reaches(&one, &format!("{SIX}:1")), "{damage:?}");
        }

        let first = "10.32.0.1/12".parse().expect("an address");
        kernel.detach(one.id.clone(), vec![first]).await.expect("detached");
        kernel.detach(two.id.clone(), Vec::new()).await.expect("detached");
        kernel.prepare().await.expect("prepared");
        one.output("ip", &["link", "set", "ethwe", "down"]);
        eventually("up again", || one.output("ip", &["link", "show", "ethwe"]).contains(",UP")).await;
        assert!(!one.output("ip", &["address"]).contains("10.32.0.1"), "what was taken by request stays away");
        assert!(!two.output("ip", &["link"]).contains("ethwe"), "what was taken by request stays away");
    });
}

#[test]
fn attached_containers_reach_each_other_by_both_families() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let (one, two) = (Container::start("a1"), Container::start("b2"));
        let attached = kernel.attach(one.spec(&["10.32.0.1/12", &format!("{SIX}:1/108")])).await.expect("attached");
        assert_eq!(attached.host_interface, "vethwa1a1a1a1a");
        assert_eq!(attached.addresses.len(), 2);
        kernel.attach(two.spec(&["10.32.0.2/12", &format!("{SIX}:2/108")])).await.expect("attached");
        assert!(one.reaches(&two, "10.32.0.2"));
        assert!(two.reaches(&one, "10.32.0.1"));
        assert!(one.reaches(&two, &format!("{SIX}:2")));
        assert!(two.reaches(&two, &format!("{SIX}:2")), "its own name leads here");
        let link = one.output("ip", &["-d", "link", "show", "ethwe"]);
        for fact in ["mtu 1400", "alias weft", ",UP", &one.spec(&[]).mac.to_string()] {
            assert!(link.contains(fact), "{fact}: {link}");
        }
        let routes = one.output("ip", &["route"]);
        assert!(routes.contains("169.254.83.53 dev ethwe") && routes.contains("224.0.0.0/4 dev ethwe"), "{routes}");
        assert!(one.output("ip", &["-6", "route", "show", "table", "local"]).contains("multicast ff00::/8 dev ethwe"));
        let port = output("bridge", &["-d", "link", "show", "dev", "vethwa1a1a1a1a"]);
        assert!(port.contains("learning off flood off") && port.contains("hairpin off"), "{port}");
        assert_eq!(kernel.prepare().await.expect("prepared"), 0, "attaching leaves nothing to correct");
    });
}

#[test]
fn attaching_again_makes_right_and_adds() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        let spec = one.spec(&["10.32.0.1/12"]);
        let first = kernel.attach(spec.clone()).await.expect("attached");
        assert_eq!(kernel.attach(spec.clone()).await.expect("attached"), first);
        one.output("ip", &["link", "set", "ethwe", "down"]);
        one.output("ip", &["link", "set", "ethwe", "mtu", "1300"]);
        let more = kernel.attach(one.spec(&["10.32.0.1/12", "10.32.0.9/12"])).await.expect("attached");
        assert_eq!(more.addresses.len(), 2);
        let link = one.output("ip", &["link", "show", "ethwe"]);
        assert!(link.contains("mtu 1400") && link.contains(",UP"), "{link}");
        assert!(one.output("ip", &["route"]).contains("169.254.83.53"));

        let seen = kernel.observe().await.expect("observed");
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].container.clone(), seen[0].pid, seen[0].mac), (one.id.clone(), one.pid, spec.mac));
        assert_eq!(seen[0].addresses, more.addresses);
    });
}

#[test]
fn detaching_takes_addresses_and_the_interface_with_the_last() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        kernel.attach(one.spec(&["10.32.0.1/12", "10.32.0.2/12"])).await.expect("attached");
        let net = |text: &str| vec![text.parse().expect("an address")];
        assert_eq!(kernel.detach(one.id.clone(), net("10.32.0.1/32")).await.expect("detached"), net("10.32.0.1/12"));
        assert!(one.output("ip", &["address", "show", "ethwe"]).contains("10.32.0.2/12"), "the other stays");
        assert_eq!(kernel.detach(one.id.clone(), net("10.32.0.77/12")).await.expect("detached"), []);
        assert_eq!(kernel.detach(one.id.clone(), Vec::new()).await.expect("detached"), net("10.32.0.2/12"));
        assert!(!one.output("ip", &["link"]).contains("ethwe"));
        assert_eq!(kernel.detach(one.id.clone(), Vec::new()).await.expect("detached"), []);
        assert_eq!(kernel.observe().await.expect("observed"), []);
    });
}

#[test]
fn a_container_that_ended_takes_its_interface_along_also_where_others_share_its_network() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let (one, alone) = (Container::start("a1"), Container::start("c3"));
        let guest = Container::start_within("b2", &one);
        for (container, address) in [(&one, "10.32.0.1/12"), (&alone, "10.32.0.2/12")] {
            kernel.attach(container.spec(&[address])).await.expect("attached");
        }
        let ended = [one.id.clone(), alone.id.clone()];
        drop((one, alone));
        for container in ended {
            let taken = kernel.detach(container.clone(), Vec::new()).await.expect("detached");
            assert!(taken.len() <= 1, "{taken:?}");
            assert!(kernel.observe().await.expect("observed").iter().all(|seen| seen.container != container));
        }
        eventually("removed", || !output("ip", &["link"]).contains("vethw")).await;
        assert!(!guest.output("ip", &["link"]).contains("ethwe"));

        // One that has ended and starts anew does not lose what it gets.
        let one = Container::start("a1");
        kernel.attach(one.spec(&["10.32.0.1/12"])).await.expect("attached");
        kernel.prepare().await.expect("prepared");
        assert!(one.output("ip", &["address"]).contains("10.32.0.1/12"));
    });
}

#[test]
fn what_cannot_be_attached_is_said_and_left_alone() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        let none = kernel.attach(one.spec(&[])).await;
        assert!(matches!(none, Err(AttachError::NoAddress { .. })), "{none:?}");

        let mut gone = one.spec(&["10.32.0.1/12"]);
        gone.pid = u32::MAX;
        let gone = kernel.attach(gone).await;
        assert!(matches!(gone, Err(AttachError::NoProcess { pid: u32::MAX, .. })), "{gone:?}");

        let host = kernel.attach(Container::start_on_host("b2").spec(&["10.32.0.1/12"])).await;
        assert!(matches!(host, Err(AttachError::HostNetwork { .. })), "{host:?}");

        // A failure half way: nobody can have a group's address.
        let error = kernel.attach(one.spec(&["10.32.0.1/12", "ff02::77/64"])).await.expect_err("refused").to_string();
        assert!(error.contains("ff02::77"), "{error}");
        assert!(!one.output("ip", &["link"]).contains("ethwe"), "nothing of the attempt is left");
        assert!(!output("ip", &["link"]).contains("vethw"), "nothing of the attempt is left");

        kernel.attach(one.spec(&["10.32.0.1/12"])).await.expect("attached");
        let guest = Container::start_within("b2", &one);
        let shared = kernel.attach(guest.spec(&["10.32.0.2/12"])).await;
        assert!(
            matches!(&shared, Err(AttachError::SharedNetwork { owner, .. }) if *owner == one.id),
            "the interface is another container's: {shared:?}"
        );
        assert!(one.output("ip", &["address"]).contains("10.32.0.1/12"), "it stays as it is");
        assert!(!output("ip", &["link"]).contains("vethwb2"), "nothing was made");
        kernel.detach(one.id.clone(), Vec::new()).await.expect("detached");

        one.output("ip", &["link", "add", "ethwe", "type", "bridge"]);
        let foreign = kernel.attach(one.spec(&["10.32.0.1/12"])).await;
        assert!(matches!(foreign, Err(AttachError::ForeignInterface { .. })), "{foreign:?}");
        assert!(one.output("ip", &["link"]).contains("ethwe"), "it is not ours to remove");
    });
}

#[test]
fn a_number_that_another_process_has_by_now_changes_nobody() {
    on_host(|Host { kernel, .. }| async move {
        kernel.prepare().await.expect("prepared");
        let (ended, other) = (Container::start("a1"), Container::start("b2"));
        // A process with a network of its own that is no container's, as some services of hosts are.
        let mut service = Command::new("unshare")
            .args(["--net", "sleep", "60"])
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare is installed");
        let own = fs::read_link("/proc/thread-self/ns/net").expect("readable");
        let network = format!("/proc/{}/ns/net", service.id());
        eventually("a network of its own", || fs::read_link(&network).is_ok_and(|network| network != own)).await;
        for pid in [other.pid, service.id()] {
            let mut spec = ended.spec(&["10.32.0.1/12"]);
            spec.pid = pid;
            let refused = kernel.attach(spec).await;
            assert!(
                matches!(&refused, Err(AttachError::ForeignProcess { pid: named, .. }) if *named == pid),
                "{refused:?}"
            );
        }
        service.kill().expect("ended");
        service.wait().expect("waited for");
        assert!(!other.output("ip", &["link"]).contains("ethwe"), "the other container is left alone");
        assert!(!output("ip", &["link"]).contains("vethw"), "nothing was made");
        kernel.attach(other.spec(&["10.32.0.1/12"])).await.expect("under its own name it is attached");
    });
}

#[test]
fn the_engines_chain_accepts_and_the_iptables_tools_understand_it() {
    on_host(|Host { kernel, .. }| async move {
        output("iptables", &["-N", "DOCKER-USER"]);
        output("iptables", &["-A", "DOCKER-USER", "-j", "RETURN"]);
        output("iptables", &["-I", "FORWARD", "-j", "DOCKER-USER"]);
        output("ip6tables", &["-P", "FORWARD", "DROP"]);
        kernel.prepare().await.expect("prepared");
        let rule = "-i weft -o weft -m comment --comment weft -j ACCEPT";
        let listed = output("iptables", &["-S", "DOCKER-USER"]);
        assert_eq!(listed, format!("-N DOCKER-USER\n-A DOCKER-USER {rule}\n-A DOCKER-USER -j RETURN\n"));
        assert!(output("iptables", &["-S", "FORWARD"]).contains(rule), "the jump to the other chain may be flushed");
        assert!(output("ip6tables", &["-S", "FORWARD"]).contains(rule));

        output("iptables", &["-F", "DOCKER-USER"]);
        eventually("accepted again", || output("iptables", &["-S", "DOCKER-USER"]).contains(rule)).await;
        output("nft", &["insert rule ip filter DOCKER-USER counter drop comment \"weft\""]);
        eventually("only one marked rule", || {
            let rules = output("iptables", &["-S", "DOCKER-USER"]);
            rules.contains(rule) && rules.matches("--comment weft").count() == 1
        })
        .await;
        kernel.remove_all().await.expect("removed");
        assert_eq!(output("iptables", &["-S", "DOCKER-USER"]), "-N DOCKER-USER\n");
        assert!(!output("nft", &["list", "ruleset"]).contains("weft"));
        let links = output("ip", &["-br", "link"]);
        assert_eq!(links.lines().count(), 1, "only the loopback is left: {links}");
    });
}

#[test]
fn legacy_xtables_accept_by_the_hosts_own_tool() {
    on_host(|Host { kernel, .. }| async move {
        output("iptables-legacy", &["-P", "FORWARD", "DROP"]);
        output("ip6tables-legacy", &["-A", "FORWARD", "-j", "DROP"]);
        kernel.prepare().await.expect("prepared");
        assert_eq!(kernel.problems(), []);
        let rule = "-i weft -o weft -m comment --comment weft -j ACCEPT";
        for tool in ["iptables-legacy", "ip6tables-legacy"] {
            assert!(output(tool, &["-S", "FORWARD"]).contains(&format!("-A FORWARD {rule}")), "{tool}");
        }
        assert_eq!(kernel.prepare().await.expect("prepared"), 0);
        let (one, two) = (Container::start("a1"), Container::start("b2"));
        for (container, number) in [(&one, 1), (&two, 2)] {
            let addresses = [format!("10.32.0.{number}/12"), format!("{SIX}:{number}/108")];
            kernel.attach(container.spec(&addresses.each_ref().map(String::as_str))).await.expect("attached");
        }
        assert!(one.reaches(&two, "10.32.0.2") && one.reaches(&two, &format!("{SIX}:2")));

        let counted = output("iptables-legacy", &["-v", "-S", "FORWARD"]);
        assert!(
            counted.contains("-c ") && !counted.contains("-c 0 0 -j ACCEPT"),
            "frames pass these tables: {counted}"
        );

        output("iptables-legacy", &["-F", "FORWARD"]);
        kernel.prepare().await.expect("prepared");
        assert!(one.reaches(&two, "10.32.0.2"), "it is back");
        kernel.remove_all().await.expect("removed");
        for tool in ["iptables-legacy", "ip6tables-legacy"] {
            assert!(!output(tool, &["-S"]).contains("weft"), "{tool}");
        }
    });
}

#[test]
fn a_host_without_the_tool_for_legacy_xtables_is_told_the_command() {
    on_host(|Host { config, .. }| async move {
        let empty = tempfile::tempdir().expect("a folder");
        output("iptables-legacy", &["-P", "FORWARD", "DROP"]);
        let config = KernelConfig { host_root: empty.path().into(), ..config };
        let kernel = Kernel::start(config).expect("privileges");
        kernel.prepare().await.expect("the rest is prepared");
        let problems = kernel.problems();
        let [problem] = problems.as_slice() else { panic!("one problem: {problems:?}") };
        assert_eq!(problem.reason, "legacy_xtables");
        let command = "`iptables-legacy -I FORWARD -i weft -o weft -m comment --comment weft -j ACCEPT`";
        assert!(problem.message.contains(command) && problem.message.contains("no iptables"), "{}", problem.message);
        let address = "10.32.0.9/12".parse().expect("valid");
        kernel.set_exposed(vec![Exposure { address, masquerade: true }]).await.expect("exposed all the same");
        kernel.prepare().await.expect("the rest is prepared");
        let command =
            "`iptables-legacy -I FORWARD -s 10.32.0.0/12 -i weft ! -o weft -m comment --comment weft-expose -j ACCEPT`";
        let problems = kernel.problems();
        assert!(problems.iter().any(|problem| problem.message.contains(command)), "{problems:?}");
    });
}

#[test]
fn what_is_not_heard_without_a_capability_is_a_problem() {
    on_host(|Host { config, .. }| async move {
        let mut own = capabilities(None).expect("known");
        own.effective.remove(CapabilitySet::NET_BROADCAST);
        set_capabilities(None, own).expect("may be given up");
        let kernel = Kernel::start(config).expect("it does its job all the same");
        kernel.prepare().await.expect("prepared");
        let problems = kernel.problems();
        let [problem] = problems.as_slice() else { panic!("one problem: {problems:?}") };
        assert_eq!(problem.reason, "containers_not_followed");
        assert!(problem.message.contains("NET_BROADCAST") && problem.message.contains("compose.yaml"), "{problem:?}");
    });
}

#[test]
fn what_an_earlier_run_left_is_used_or_replaced() {
    on_host(|Host { kernel, config, .. }| async move {
        let one = Container::start("a1");
        kernel.prepare().await.expect("prepared");
        kernel.attach(one.spec(&["10.32.0.1/12"])).await.expect("attached");
        let dns = kernel.dns_sockets().borrow().clone().expect("sockets");
        drop(kernel);

        let successor = Kernel::start(config).expect("started");
        let changes = successor.prepare().await.expect("prepared");
        assert!(changes > 0, "the name server's port is made anew, for its namespace went with the earlier run");
        assert_eq!(successor.observe().await.expect("observed").len(), 1, "containers stay attached");
        assert_eq!(output("ip", &["-br", "link"]).matches("weft-dns").count(), 1);
        drop(dns);
        assert_eq!(successor.prepare().await.expect("prepared"), 0);
        drop(one);
        eventually("a dead container's port goes", || !output("ip", &["link"]).contains("vethw")).await;
    });
}

#[test]
fn the_hosts_file_names_the_container() {
    on_host(|Host { kernel, .. }| async move {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hosts");
        fs::write(&path, "127.0.0.1\tlocalhost\n172.17.0.2\tdb\n").expect("written");
        let inode = fs::metadata(&path).expect("there").ino();
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        let mut spec = one.spec(&["10.32.0.1/12", "10.32.0.2/12"]);
        spec.hosts_file = Some(HostsFile {
            path: path.clone(),
            hostname: "db".into(),
            domainname: "weft.internal".into(),
            extra_hosts: vec!["gw:192.0.2.1".into()],
        });
        kernel.attach(spec).await.expect("attached");
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.contains("10.32.0.1\tdb.weft.internal db") && text.contains("192.0.2.1\tgw"), "{text}");
        assert!(!text.contains("172.17.0.2"), "{text}");
        kernel.detach(one.id.clone(), vec!["10.32.0.1/12".parse().expect("valid")]).await.expect("detached");
        let text = fs::read_to_string(&path).expect("readable");
        assert!(!text.contains("10.32.0.1\t") && text.contains("10.32.0.2\tdb"), "{text}");
        assert_eq!(fs::metadata(&path).expect("there").ino(), inode, "the engine binds that very file");
    });
}

#[test]
fn a_hosts_file_that_cannot_be_written_is_a_problem_and_nothing_more() {
    on_host(|Host { kernel, .. }| async move {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("elsewhere/hosts");
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        let mut spec = one.spec(&["10.32.0.1/12"]);
        spec.hosts_file = Some(HostsFile {
            path: path.clone(),
            hostname: "db".into(),
            domainname: String::new(),
            extra_hosts: vec![],
        });
        assert_eq!(kernel.attach(spec.clone()).await.expect("attached").addresses.len(), 1);
        assert!(one.output("ip", &["link", "show", "ethwe"]).contains("alias weft"), "the container may start");
        kernel.prepare().await.expect("prepared");
        let problems = kernel.problems();
        let message = &problems.first().expect("a problem").message;
        assert!(message.contains(&path.display().to_string()) && message.contains("WEFT_DOCKER_ROOT"), "{message}");

        fs::create_dir(folder.path().join("elsewhere")).expect("made");
        fs::write(&path, "127.0.0.1\tlocalhost\n").expect("written");
        kernel.attach(spec).await.expect("attached");
        kernel.prepare().await.expect("prepared");
        assert_eq!(kernel.problems(), []);
    });
}

#[test]
fn routes_of_the_host_are_listed() {
    on_host(|Host { kernel, .. }| async move {
        output("ip", &["link", "add", "br-x", "type", "bridge"]);
        output("ip", &["address", "add", "10.40.0.1/24", "dev", "br-x"]);
        output("ip", &["link", "set", "br-x", "up"]);
        output("ip", &["route", "add", "blackhole", "10.99.0.0/16"]);
        output("ip", &["route", "add", "default", "via", "10.40.0.2"]);
        let routes = kernel.host_routes().await.expect("listed");
        let text: Vec<String> =
            routes.iter().map(|route| format!("{} {}", route.destination, route.interface)).collect();
        assert_eq!(
            text.iter().filter(|t| t.starts_with("10.")).collect::<Vec<_>>(),
            ["10.40.0.0/24 br-x", "10.99.0.0/16 "]
        );
    });
}
