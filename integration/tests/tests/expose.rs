//! `weft expose` and `weft hide`: a host reaches containers wherever they are and is reached by them, over restarts and flushes,
//! until it is hidden.

use anyhow::{Context, ensure};
use weft_integration_tests::{A_SECOND, Container, Mesh, SOON};
use weft_lab::{Host, eventually};

/// The host's own addresses on the overlay.
struct Exposed {
    v4: String,
    v6: String,
}

impl Exposed {
    fn read(printed: &str) -> anyhow::Result<Self> {
        let mut words = printed.split_whitespace().map(str::to_owned);
        let mut next = || words.next().with_context(|| format!("two addresses are missing in {printed:?}"));
        Ok(Self { v4: next()?, v6: next()? })
    }
}

/// Has a container tell each client on port 80 its address.
async fn tells(container: &Container) -> anyhow::Result<()> {
    let script = "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; echo $REMOTE_ADDR\\n' > /www/cgi-bin/who; \
                  chmod +x /www/cgi-bin/who; httpd -h /www";
    container.exec(&["sh", "-ec", script]).await.map(drop)
}

/// Returns as whom a container sees a host.
async fn seen(from: &Host, by: &str) -> anyhow::Result<String> {
    let by = if by.matches(':').count() > 1 { format!("[{by}]") } else { by.to_owned() };
    let page = format!("http://{by}/cgi-bin/who");
    let told = from.exec(&["busybox", "timeout", "2", "busybox", "wget", "-q", "-O", "-", &page]).await?;
    let address = told.trim().trim_matches(['[', ']']);
    // The server listens for both families at once.
    Ok(address.trim_start_matches("::ffff:").to_owned())
}

#[tokio::test]
async fn an_exposed_host_is_a_station_of_the_overlay_until_it_is_hidden() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    tokio::try_join!(tells(&one), tells(&two))?;
    two.pings(&one.ipv4.to_string()).await?;
    let host = mesh.lab.host(1);
    let reached = async |container: &Container| seen(host, &container.ipv4.to_string()).await;
    for container in [&one, &two] {
        ensure!(reached(container).await.is_err(), "the host reaches {} though nobody exposed it", container.name);
    }

    let exposed = Exposed::read(&mesh.on(1).weft(&["expose", "-h", "gateway"]).await?)?;
    let again = mesh.on(1).weft(&["expose"]).await?;
    ensure!(again == format!("{} {}", exposed.v4, exposed.v6), "exposed again it is {again:?}");
    let works = async |limit| {
        eventually("the host and containers reach each other", limit, async || {
            for container in [&one, &two] {
                for (own, address) in
                    [(&exposed.v4, container.ipv4.to_string()), (&exposed.v6, container.ipv6.to_string())]
                {
                    let seen = seen(host, &address).await?;
                    ensure!(seen == *own, "{own} is seen as {seen}");
                    container.exec(&["ping", "-c", "1", "-W", "1", own]).await?;
                }
            }
            Ok(())
        })
        .await
    };
    works(SOON).await?;
    two.finds("gateway", Some(exposed.v4.parse()?), SOON).await?;
    let listed = mesh.on(1).json(&["expose"]).await?;
    ensure!(listed["exposed"][0]["names"] == serde_json::json!(["gateway"]), "the name is not listed: {listed}");
    let own = mesh.on(1).weft(&["ps", "weft:expose"]).await?;
    ensure!(own.contains(&exposed.v4), "the host is not listed: {own}");

    // What somebody flushes is back, and restarts change nothing.
    for harm in [&["nft", "flush", "ruleset"][..], &["ip", "-4", "address", "flush", "dev", "weft"]] {
        host.exec(harm).await?;
        works(A_SECOND).await.with_context(|| format!("after {harm:?}"))?;
    }
    mesh.on(1).compose(["restart"]).text().await?;
    mesh.on(1).ready().await?;
    works(SOON).await.context("after a restart of all services")?;
    two.finds("gateway", Some(exposed.v4.parse()?), SOON).await?;

    comes_through(&mesh, &two, &exposed).await?;

    let hidden = mesh.on(1).weft(&["hide"]).await?;
    ensure!(hidden == again, "hidden is {hidden:?}");
    for container in [&one, &two] {
        ensure!(reached(container).await.is_err(), "the host still reaches {}", container.name);
    }
    ensure!(two.exec(&["ping", "-c", "1", "-W", "1", &exposed.v4]).await.is_err(), "the host is still reached");
    two.finds("gateway", None, SOON).await?;
    let left = host.exec(&["sh", "-c", "ip address show dev weft; ip route; nft list ruleset"]).await?;
    ensure!(
        !left.contains(&exposed.v4) && !left.contains("weft-expose") && !left.contains("10.32.0.0/12 dev"),
        "{left}"
    );
    mesh.on(1).weft(&["ps", "weft:expose"]).await.and_then(|own| {
        ensure!(own.is_empty(), "it is still listed: {own}");
        Ok(())
    })?;

    // Addresses by hand, and what is wrong.
    let by_hand = mesh.on(1).weft(&["expose", "10.40.0.9/24", "net:default"]).await?;
    ensure!(by_hand.starts_with("10.40.0.9 ") && by_hand.contains(" 10.32."), "{by_hand}");
    let refused = mesh.on(1).command(["expose", &format!("{}/12", two.ipv4)])?.output().await?;
    ensure!(refused.status.code() == Some(1), "another one's address is the host's: {}", refused.all());
    let refused = mesh.on(1).command(["expose", "-h", "www.example.org", "10.40.0.10/24"])?.output().await?;
    ensure!(refused.status.code() == Some(1) && refused.all().contains("outside of the zone"), "{}", refused.all());
    let addresses = host.exec(&["ip", "-o", "address", "show", "dev", "weft"]).await?;
    ensure!(addresses.contains("10.40.0.9/24") && !addresses.contains("10.40.0.10"), "{addresses}");
    mesh.on(1).weft(&["hide", "10.40.0.9/24"]).await?;
    let allocated = mesh.on(1).ipam_status().await?.allocated;
    ensure!(allocated == 2, "the container and the default subnet's address are to be held, not {allocated}");
    mesh.stop().await
}

/// Packets of another machine pass the exposed host: masqueraded, and not.
async fn comes_through(mesh: &Mesh, two: &Container, exposed: &Exposed) -> anyhow::Result<()> {
    let (gateway, outside) = (mesh.lab.host(1).ipv4().to_string(), mesh.lab.host(2));
    outside.exec(&["ip", "route", "add", &format!("{}/32", two.ipv4), "via", &gateway]).await?;
    let through = async |expected: &str| {
        eventually("the container is reached through the exposed host", SOON, async || {
            let seen = seen(outside, &two.ipv4.to_string()).await?;
            ensure!(seen == expected, "{expected} is seen as {seen}");
            Ok(())
        })
        .await
    };
    through(&exposed.v4).await?;
    let (rule, target) = ("iptables -t nat -A PREROUTING -p tcp -i eth0 --dport 2280 -j DNAT", two.ipv4);
    mesh.lab.host(1).exec(&["sh", "-ec", &format!("{rule} --to-destination {target}:80")]).await?;
    let published = seen(outside, &format!("{gateway}:2280")).await.context("a port that leads to a container")?;
    ensure!(published == exposed.v4, "it is seen as {published}");
    mesh.on(1).weft(&["expose", "--without-masquerade"]).await?;
    // The container needs a way back then.
    let source = outside.ipv4().to_string();
    two.in_network(&["ip", "route", "add", &source, "via", &exposed.v4]).await?.text().await?;
    through(&source).await?;
    mesh.on(1).compose(["restart", "router"]).text().await?;
    mesh.on(1).ready().await?;
    through(&source).await.context("a restart forgets that sources are kept")?;
    mesh.on(1).weft(&["expose"]).await?;
    through(&exposed.v4).await
}
