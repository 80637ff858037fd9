//! `weft publish` and `weft import`: ports of a host lead to containers of any host, to those that are left when one dies, and names
//! inside to services outside, over flushes and restarts, until they are taken back.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use weft_integration_tests::{A_SECOND, Container, Mesh, SOON};
use weft_lab::{Host, eventually};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Questions by which both of two containers are met: one is missed with a probability of 2 in 2^24.
const MANY: usize = 24;

/// Port of the containers.
const SERVICE: u16 = 80;

/// Port of the host.
const PORT: u16 = 8080;

/// Has a container tell each client, by TCP and by UDP, its word, the client's address, and what the client has said first.
async fn serve(container: &Container, word: &'static str) -> anyhow::Result<()> {
    let open = || Ok((TcpListener::bind(("::", SERVICE))?, UdpSocket::bind(("::", SERVICE))?));
    let (listener, socket) = container.host.open_in_network_of(&container.name, open).await?;
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let Ok(from) = client.peer_addr() else { continue };
            let mut said = [0; 128];
            let length = client.read(&mut said).unwrap_or_default();
            let head = format!("{word} {} ", from.ip().to_canonical());
            let _ = client.write_all(&[head.as_bytes(), said.get(..length).unwrap_or_default()].concat());
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{word} {} ", from.ip().to_canonical()).as_bytes(), from);
        }
    });
    Ok(())
}

/// Does something in a host's network.
fn on<T: Send + 'static>(
    host: &Host,
    action: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let network = host.network().context("the host is gone")?;
    let action = move || {
        setns(network, CloneFlags::CLONE_NEWNET).context("failed to enter a host's network")?;
        action()
    };
    thread::spawn(action).join().map_err(|_| anyhow!("an action in a host's network panicked"))?
}

/// Asks by TCP, and returns all that is answered.
fn ask(to: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let mut client = TcpStream::connect_timeout(&to, PATIENCE)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(b"hello")?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    ensure!(!answer.is_empty(), "{to} closed without an answer");
    Ok(answer)
}

fn ask_by(client: &UdpSocket, to: SocketAddr) -> anyhow::Result<Vec<u8>> {
    client.set_read_timeout(Some(PATIENCE))?;
    // Answers from elsewhere are none.
    client.connect(to)?;
    client.send(b"hello")?;
    let mut answer = [0; 64];
    let length = client.recv(&mut answer)?;
    Ok(answer[..length].to_vec())
}

fn client_for(to: SocketAddr) -> anyhow::Result<UdpSocket> {
    Ok(UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?)
}

/// Returns the words of all who answer, and the addresses that they see.
fn met(from: &Host, to: SocketAddr, udp: bool) -> anyhow::Result<[BTreeSet<String>; 2]> {
    on(from, move || {
        let mut met = [BTreeSet::new(), BTreeSet::new()];
        for _ in 0..MANY {
            let answer = if udp { ask_by(&client_for(to)?, to)? } else { ask(to)? };
            let answer = String::from_utf8_lossy(&answer).into_owned();
            for (set, word) in met.iter_mut().zip(answer.split(' ')) {
                set.insert(word.to_owned());
            }
        }
        Ok(met)
    })
}

fn all(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Waits until exactly these answer.
async fn answers(from: &Host, to: SocketAddr, udp: bool, words: &[&str], limit: Duration) -> anyhow::Result<()> {
    let what = format!("{words:?} answer at {to} by {}", if udp { "UDP" } else { "TCP" });
    eventually(&what, limit, async || {
        let [met, _] = met(from, to, udp)?;
        ensure!(met == all(words), "{met:?} answer");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn ports_lead_to_containers_of_any_host_until_they_are_taken_back() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (host, outside) = (mesh.lab.host(1), mesh.lab.host(2));
    let before = state(host).await?;
    let (near, far) = tokio::try_join!(mesh.container(1, "web", &[]), mesh.container(2, "web", &[]))?;
    tokio::try_join!(serve(&near, "near"), serve(&far, "far"))?;
    near.pings(&far.ipv4.to_string()).await?;
    mesh.on(1).weft(&["publish", "8080", "web:80"]).await?;
    mesh.on(1).weft(&["publish", "--udp", "8080", "web:80"]).await?;
    let at: Vec<SocketAddr> = host.addresses().map(|address| SocketAddr::new(address, PORT)).into();
    let loopback: [SocketAddr; 2] =
        ["127.0.0.1", "::1"].map(|text| SocketAddr::new(text.parse().expect("valid"), PORT));

    for udp in [false, true] {
        for to in &at {
            answers(outside, *to, udp, &["near", "far"], SOON).await?;
        }
        for to in at.iter().chain(&loopback) {
            answers(host, *to, udp, &["near", "far"], SOON).await.context("from the host itself")?;
        }
    }
    seen(&mesh, &near, at[0]).await?;
    let shown = mesh.on(1).weft(&["status", "services"]).await?;
    ensure!(shown.contains("8080/tcp") && shown.contains("8080/udp"), "{shown}");
    let reported = mesh.on(1).json(&["report"]).await?;
    ensure!(reported["services"]["published"][0]["target"] == "web", "{}", reported["services"]);

    refusals(&mesh, &near).await?;
    survives(&mesh, &at).await?;
    named(&mesh, at[0]).await?;
    fails_over(&mesh, &far, &at).await?;

    for protocol in ["tcp", "udp"] {
        mesh.on(1).weft(&["unpublish", "--protocol", protocol, "8080"]).await?;
    }
    let left = mesh.on(1).weft(&["status", "services"]).await?;
    ensure!(left.is_empty(), "it is still listed: {left}");
    ensure!(
        on(outside, {
            let to = at[0];
            move || ask(to)
        })
        .is_err(),
        "it still leads somewhere"
    );
    host.docker(&["rm", "-f", "web"]).await?;
    eventually("nothing is left", SOON, async || {
        let after = state(host).await?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        Ok(())
    })
    .await?;
    let nothing = mesh.on(1).command(["unpublish", "8080"])?.output().await?;
    ensure!(nothing.status.code() == Some(0) && nothing.all().contains("no such port"), "{}", nothing.all());
    mesh.stop().await
}

/// Returns what publishing may leave on a host.
async fn state(host: &Host) -> anyhow::Result<String> {
    let script = "ip -o address show dev weft scope global; ip route; ss -Hlntu | awk '{print $1, $5}' | sort; \
                  for tool in iptables ip6tables; do $tool -S FORWARD | grep -e '--comment weft-'; done; \
                  nft list tables | grep weft | sort; nft list table inet weft | sed 's/packets [0-9]* bytes [0-9]*//'";
    host.exec(&["sh", "-c", script]).await
}

/// A container of the publishing host sees clients by TCP, others see the host, and the listing says so.
async fn seen(mesh: &Mesh, near: &Container, to: SocketAddr) -> anyhow::Result<()> {
    let client: IpAddr = mesh.lab.host(2).ipv4().into();
    for (udp, sees) in [(false, 2), (true, 1)] {
        let [_, seen] = met(mesh.lab.host(2), to, udp)?;
        let client_seen = seen.contains(&client.to_string());
        ensure!(seen.len() == sees && client_seen != udp, "{client} is seen as {seen:?}, udp: {udp}");
    }
    let listed = mesh.on(1).json(&["status", "services"]).await?;
    let backends = listed["published"][0]["backends"].as_array().context("a list")?;
    let direct: Vec<_> = backends.iter().filter(|backend| backend["client"] == "client").collect();
    ensure!(direct.len() == 1 && direct[0]["address"] == near.ipv4.to_string(), "{listed}");
    Ok(())
}

/// What makes no sense changes nothing.
async fn refusals(mesh: &Mesh, near: &Container) -> anyhow::Result<()> {
    let taken = on(mesh.lab.host(1), || Ok(TcpListener::bind(("0.0.0.0", 8085))?))?;
    let before = mesh.on(1).weft(&["status", "services"]).await?;
    let address = format!("{}:80", near.ipv4);
    for (words, code, part) in [
        (&["publish", "8081", "nobody:80"][..], 1, "no container has the name nobody"),
        (&["publish", "8081", "192.0.2.77:80"], 1, "outside of the overlay's range"),
        (&["publish", "8081", "10.32.200.1:80"], 1, "no container that can be reached has the address"),
        (&["publish", "8081", "web.example.org.:80"], 1, "outside of the zone"),
        (&["publish", "6783", "web:80"], 1, "weft's own"),
        (&["publish", "--udp", "6784", "web:80"], 1, "weft's own"),
        (&["publish", "8085", "web:80"], 1, "in use already"),
        (&["publish", "192.0.2.1:8081", "web:80"], 1, "does not have the address"),
        (&["publish", "127.0.0.1:8080", &address], 1, "is published as 8080 (TCP) already"),
        (&["publish", "--udp", "--proxy-protocol", "8081", "web:80"], 1, "connections of TCP"),
        (&["publish", "http", "web:80"], 2, "is not a port of the host"),
        (&["publish", "8081", "web"], 2, "the port is missing"),
        (&["publish", "8081"], 2, "required arguments"),
        (&["unpublish", "x"], 2, "is not a port of the host"),
    ] {
        let refused = mesh.on(1).command(words.iter().copied())?.output().await?;
        ensure!(
            refused.status.code() == Some(code) && refused.all().contains(part),
            "{words:?}: {:?} {}",
            refused.status.code(),
            refused.all()
        );
    }
    drop(taken);
    let after = mesh.on(1).weft(&["status", "services"]).await?;
    ensure!(before == after, "{before}\n{after}");
    Ok(())
}

/// Rules of ours come back, those of others stay, and restarts change nothing.
async fn survives(mesh: &Mesh, at: &[SocketAddr]) -> anyhow::Result<()> {
    let (host, outside) = (mesh.lab.host(1), mesh.lab.host(2));
    host.exec(&["nft", "add table ip somebody; add chain ip somebody theirs; add rule ip somebody theirs counter"])
        .await?;
    for harm in [
        "nft delete table inet weft-publish",
        "iptables -F DOCKER-USER; ip6tables -F FORWARD; iptables -t nat -F",
        // Some hosts refuse whatever nobody accepted.
        "for tool in iptables ip6tables; do $tool -F FORWARD; $tool -A FORWARD -j REJECT; done",
        // The engine, whose policy is to drop, puts its own rules back when it starts again.
        "iptables -F; ip6tables -F; iptables -t nat -F",
    ] {
        host.exec(&["sh", "-c", harm]).await?;
        for to in at {
            answers(outside, *to, false, &["near", "far"], A_SECOND).await.with_context(|| format!("after {harm}"))?;
        }
    }
    let theirs = host.exec(&["nft", "list", "table", "ip", "somebody"]).await?;
    ensure!(theirs.contains("counter"), "{theirs}");
    host.exec(&["nft", "flush", "ruleset"]).await?;
    answers(outside, at[0], true, &["near", "far"], A_SECOND).await.context("after a flush")?;
    for services in [&["router"][..], &["dns"], &["router", "ipam", "dns", "docker-proxy"]] {
        mesh.on(1).compose(["restart"].iter().chain(services).copied()).text().await?;
        mesh.on(1).ready().await?;
        for to in at {
            answers(outside, *to, false, &["near", "far"], SOON)
                .await
                .with_context(|| format!("{services:?} restarted"))?;
        }
    }
    Ok(())
}

/// With the PROXY protocol each container is told who the client is.
async fn named(mesh: &Mesh, to: SocketAddr) -> anyhow::Result<()> {
    mesh.on(1).weft(&["publish", "--proxy-protocol", "8082", "web:80"]).await?;
    let to = SocketAddr::new(to.ip(), 8082);
    let client = mesh.lab.host(2).ipv4();
    for _ in 0..MANY {
        let answer = on(mesh.lab.host(2), move || ask(to))?;
        let at = answer.windows(12).position(|part| part == b"\r\n\r\n\0\r\nQUIT\n").context("no header")?;
        ensure!(answer.get(at + 12..at + 14) == Some(&[0x21, 0x11]), "{answer:?}");
        ensure!(answer.get(at + 16..at + 20) == Some(&client.octets()), "{client} is told as {answer:?}");
    }
    let shown = mesh.on(1).weft(&["status", "services"]).await?;
    ensure!(shown.contains("told clients by the PROXY protocol"), "{shown}");
    mesh.on(1).weft(&["unpublish", "8082"]).await.map(drop)
}

/// Clients of a container that dies are led to the other one, those by UDP too that go on.
async fn fails_over(mesh: &Mesh, far: &Container, at: &[SocketAddr]) -> anyhow::Result<()> {
    let outside = mesh.lab.host(2);
    let to = at[0];
    let clients = on(outside, move || {
        (0..MANY)
            .map(|_| client_for(to).and_then(|client| ask_by(&client, to).map(|_| client)))
            .collect::<Result<Vec<_>, _>>()
    })?;
    far.host.docker(&["kill", "web"]).await?;
    for to in at {
        answers(outside, *to, false, &["near"], A_SECOND).await?;
    }
    for client in clients {
        let answer = ask_by(&client, to).context("a client by UDP is led to a dead container")?;
        ensure!(answer.starts_with(b"near"), "{answer:?}");
    }
    // It comes back, and gets its share.
    far.host.docker_via_proxy(&["start", "web"]).await?;
    let far = Container::find(&far.host, "web").await?;
    serve(&far, "again").await?;
    answers(outside, to, false, &["near", "again"], SOON).await?;
    mesh.lab.host(1).docker(&["kill", "web"]).await?;
    answers(outside, to, false, &["again"], A_SECOND).await
}

#[tokio::test]
async fn a_service_outside_has_a_name_inside_until_it_is_taken_away() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (host, outside) = (mesh.lab.host(1), mesh.lab.host(2));
    let (near, far) =
        tokio::try_join!(mesh.container(1, "near", &[]), mesh.container(2, "far", &["--network", "none"]))?;
    near.pings(&far.ipv4.to_string()).await?;
    let before = state(host).await?;
    let listener = on(outside, || Ok(TcpListener::bind(("0.0.0.0", 5432))?))?;
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(b"outside");
        }
    });
    for (words, code, part) in [
        (&["import", "db", "10.32.0.200:5432"][..], 1, "is inside the overlay"),
        (&["import", "db", "127.0.0.1:5432"], 1, "each host's own loopback"),
        (&["import", "near", "192.0.2.9:5432"], 1, "the name near means"),
        (&["import", "db", "nobody.invalid:5432"], 1, "is not found"),
        (&["import", "d b", "192.0.2.9:5432"], 1, "cannot be the name"),
        (&["import", "db", "192.0.2.9"], 2, "the port is missing"),
    ] {
        let refused = mesh.on(1).command(words.iter().copied())?.output().await?;
        let code_is = refused.status.code() == Some(code);
        ensure!(code_is && refused.all().contains(part), "{words:?}: {}", refused.all());
    }
    let after = state(host).await?;
    ensure!(after == before, "before:\n{before}\nafter what was refused:\n{after}");

    let at = format!("{}:5432", outside.ipv4());
    mesh.on(1).weft(&["import", "db", &at]).await?;
    let reached = async |limit: Duration| {
        for container in [&near, &far] {
            eventually(&format!("{} reaches the service", container.name), limit, async || {
                let said = container.exec(&["nc", "-w", "2", "db.weft.internal", "5432"]).await?;
                ensure!(said.trim() == "outside", "it says {said:?}");
                Ok(())
            })
            .await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    reached(SOON).await?;
    let listed = mesh.on(1).json(&["status", "services"]).await?;
    ensure!(listed["imported"][0]["targets"][0] == outside.ipv4().to_string(), "{listed}");
    host.exec(&["nft", "flush", "ruleset"]).await?;
    reached(A_SECOND).await.context("after a flush")?;
    mesh.on(1).compose(["restart"]).text().await?;
    mesh.on(1).ready().await?;
    reached(SOON).await.context("after a restart of all services")?;

    mesh.on(1).weft(&["unimport", "db"]).await?;
    far.finds("db", None, SOON).await?;
    let after = state(host).await?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    let allocated = mesh.on(1).ipam_status().await?.allocated;
    ensure!(allocated == 1, "the container's address is to be held, not {allocated}");
    let nothing = mesh.on(1).command(["unimport", "db"])?.output().await?;
    ensure!(nothing.status.code() == Some(0) && nothing.all().contains("no service of that name"), "{}", nothing.all());
    mesh.stop().await
}
