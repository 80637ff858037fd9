//! The host as a station of the overlay.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use weft_router::kernel::Exposure;

use crate::{
    SIX,
    support::{Container, Host, eventually, now, on_host, output},
};

/// How long a connection that nobody answers is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

fn exposures(masquerade: bool) -> Vec<Exposure> {
    ["10.32.0.9/12".to_owned(), format!("{SIX}:9/108")]
        .map(|text| Exposure { address: text.parse().expect("valid"), masquerade })
        .into()
}

/// Opens a service that tells each client its address, and returns where.
fn serve(address: &str) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).expect("the address is there");
    let bound = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let address = client.peer_addr().expect("connected").ip().to_string();
            let _ = client.write_all(address.as_bytes());
        }
    });
    bound
}

/// Returns as whom a service sees us; nothing if it is not reached.
fn seen_by(service: SocketAddr) -> Option<String> {
    let mut client = TcpStream::connect_timeout(&service, PATIENCE).ok()?;
    client.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut seen = String::new();
    client.read_to_string(&mut seen).ok()?;
    Some(seen)
}

#[test]
fn an_exposed_host_reaches_containers_and_is_reached_until_it_is_hidden() {
    on_host(|Host { kernel, .. }| async move {
        output("ip", &["link", "set", "lo", "up"]);
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        kernel.attach(one.spec(&["10.32.0.1/12", &format!("{SIX}:1/108")])).await.expect("attached");
        let services = ["10.32.0.1".to_owned(), format!("{SIX}:1")].map(|at| one.run(move || serve(&at)));
        // The host listens everywhere, also where it has an address for others.
        output("ip", &["address", "add", "192.0.2.1/32", "dev", "lo"]);
        let on_all = serve("::").port();

        for service in services {
            assert_eq!(seen_by(service), None, "a host that is not exposed reaches {service}");
        }
        assert_eq!(kernel.set_exposed(exposures(true)).await.expect("exposed"), exposures(true));
        let own = ["10.32.0.9".to_owned(), format!("{SIX}:9")];
        for (service, own) in services.into_iter().zip(&own) {
            assert_eq!(seen_by(service).as_ref(), Some(own));
        }
        for own in &own {
            let to = SocketAddr::new(own.parse().expect("valid"), on_all);
            let seen = one.run(move || seen_by(to)).expect("the host is reached");
            assert!(seen.ends_with("10.32.0.1") || seen == format!("{SIX}:1"), "{seen}");
        }
        let other = SocketAddr::new("192.0.2.1".parse().expect("valid"), on_all);
        one.run(|| output("ip", &["route", "add", "192.0.2.1/32", "via", "10.32.0.9"]));
        assert_eq!(one.run(move || seen_by(other)), None, "another address of the host is reached");

        // Whatever somebody takes away is back.
        let damages: [&[&str]; 4] = [
            &["ip", "-4", "address", "flush", "dev", "weft"],
            &["nft", "flush", "ruleset"],
            &["nft", "delete", "table", "inet", "weft-expose"],
            &["ip", "link", "delete", "weft"],
        ];
        for damage in damages {
            output(damage[0], &damage[1..]);
            let start = now();
            eventually("exposed again", || {
                seen_by(services[0]).is_some()
                    && output("nft", &["list", "ruleset"]).contains("counter packets 0 bytes 0 masquerade")
            })
            .await;
            assert!(start.elapsed() < Duration::from_secs(1), "{damage:?} took {:?}", start.elapsed());
        }
        eventually("settled", || true).await;
        assert_eq!(kernel.prepare().await.expect("prepared"), 0);

        kernel.set_exposed(Vec::new()).await.expect("hidden");
        assert_eq!(output("ip", &["-o", "address", "show", "dev", "weft", "scope", "global"]), "");
        let rules = output("nft", &["list", "ruleset"]);
        // The ports of containers are guarded by their subnets, exposed or not.
        let guarded = output("nft", &["list", "ruleset", "bridge"]);
        let rules = rules.replace(&guarded, "");
        assert!(!rules.contains("10.32") && !rules.contains("weft-expose"), "{rules}");
        for service in services {
            assert_eq!(seen_by(service), None, "a hidden host reaches {service}");
        }
        assert_eq!(kernel.problems(), []);
    });
}

#[test]
fn who_comes_through_the_host_is_masqueraded_if_that_is_asked_for() {
    on_host(|Host { kernel, .. }| async move {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a host that routes");
        output(
            "nft",
            &["add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"],
        );
        kernel.prepare().await.expect("prepared");
        let (one, outside) = (Container::start("a1"), Container::start("b2"));
        kernel.attach(one.spec(&["10.32.0.1/12"])).await.expect("attached");
        let pid = outside.pid.to_string();
        output("ip", &["link", "add", "out", "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        output("ip", &["address", "add", "192.0.2.1/24", "dev", "out"]);
        output("ip", &["link", "set", "out", "up"]);
        outside.output("ip", &["address", "add", "192.0.2.2/24", "dev", "eth0"]);
        outside.output("ip", &["link", "set", "eth0", "up"]);
        outside.output("ip", &["route", "add", "10.32.0.0/12", "via", "192.0.2.1"]);
        let (inner, outer) = (one.run(|| serve("10.32.0.1")), outside.run(|| serve("192.0.2.2")));
        assert_eq!(outside.run(move || seen_by(inner)), None, "the host routes though it is not exposed");

        kernel.set_exposed(exposures(true)).await.expect("exposed");
        one.output("ip", &["route", "add", "192.0.2.0/24", "via", "10.32.0.9"]);
        assert_eq!(outside.run(move || seen_by(inner)).as_deref(), Some("10.32.0.9"));
        assert_eq!(one.run(move || seen_by(outer)).as_deref(), Some("192.0.2.1"));
        // Somebody flushes what the engine's chain has.
        output("nft", &["flush", "chain", "ip", "filter", "FORWARD"]);
        eventually("let pass again", || one.run(move || seen_by(outer)).is_some()).await;

        kernel.set_exposed(exposures(false)).await.expect("exposed");
        assert_eq!(outside.run(move || seen_by(inner)).as_deref(), Some("192.0.2.2"));
        assert_eq!(one.run(move || seen_by(outer)).as_deref(), Some("10.32.0.1"));

        kernel.remove_all().await.expect("removed");
        let rules = output("nft", &["list", "ruleset"]);
        assert!(!rules.contains("weft"), "{rules}");
    });
}
