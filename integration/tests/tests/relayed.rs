//! A host between two others who see only it, over IPv6 only: it hands on what they say to each other and reads none of it.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{Container, Mesh, PASSWORD, SOON, copies, goes, hosts_with_images, only_ipv6};
use weft_lab::{Host, Launch, Weft, contains};
use weft_proto::router::v1::PathKind;

const SPOKEN: &str = "a sentence that nobody between the two reads";

/// How often it is said each time.
const LINES: usize = 1000;

async fn relayed_bytes(weft: &Weft) -> anyhow::Result<u64> {
    Ok(weft.router_status().await?.data_plane.context("it has no data plane")?.relayed_bytes)
}

/// Checks that nothing of what two containers said, or of who they are, is in a recording.
fn assert_sealed(place: &str, recorded: &[u8], [one, other]: [&Container; 2]) -> anyhow::Result<()> {
    // Each sentence crossed, sealed, in each direction over IPv4 and IPv6.
    ensure!(recorded.len() > 4 * LINES * SPOKEN.len(), "{place}: the recording has {} bytes only", recorded.len());
    ensure!(!contains(recorded, SPOKEN.as_bytes()), "{place}: what was said is there in the clear");
    for (from, to) in [(one, other), (other, one)] {
        for text in [from.ipv4.to_string(), from.ipv6.to_string()] {
            ensure!(!contains(recorded, text.as_bytes()), "{place}: {text} is there as text");
        }
        // Four bytes are in a megabyte of ciphertext by chance, once in thousands of times: source and destination stand together.
        let header = [from.ipv4.octets(), to.ipv4.octets()].concat();
        ensure!(!contains(recorded, &header), "{place}: there is a header from {} to {}", from.ipv4, to.ipv4);
        ensure!(!contains(recorded, &from.ipv6.octets()), "{place}: {} is there as bytes", from.ipv6);
    }
    Ok(())
}

#[tokio::test]
async fn a_host_between_two_hands_on_what_it_cannot_read() -> anyhow::Result<()> {
    let lab = hosts_with_images(3).await?;
    try_join_all(lab.hosts().iter().map(only_ipv6)).await?;
    lab.underlay().cut(lab.link(1, 3)).await?;
    let between = lab.host(2).clone();
    let launch = |host: &Host| match host.name() == between.name() {
        true => Launch::new(PASSWORD),
        false => Launch::new(PASSWORD).peers(&[&between]),
    };
    let weft = try_join_all(lab.hosts().iter().map(|host| Weft::launch(host, launch(host)))).await?;
    let mesh = Mesh { lab, weft };
    tokio::try_join!(mesh.on(1).joined(1), mesh.on(2).joined(2), mesh.on(3).joined(1))?;
    let (one, three) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(3, "three", &[]))?;
    one.pings(&three.ipv4.to_string()).await?;
    three.pings(&one.ipv6.to_string()).await?;
    goes(mesh.on(1), mesh.lab.host(3), PathKind::Relay, SOON).await?;
    goes(mesh.on(3), mesh.lab.host(1), PathKind::Relay, SOON).await?;

    let before = relayed_bytes(mesh.on(2)).await?;
    let (links, inside) = tokio::try_join!(mesh.lab.capture(), mesh.lab.capture_at(&between))?;
    let says = format!("yes '{SPOKEN}' | head -n {LINES}");
    for (from, to) in [(&one, &three), (&three, &one)] {
        for address in [to.ipv4.into(), to.ipv6.into()] {
            copies(from, to, address, &says, SOON).await?;
        }
    }
    let (links, inside) = tokio::try_join!(links.stop(), inside.stop())?;
    let relayed = relayed_bytes(mesh.on(2)).await? - before;
    ensure!(relayed > (4 * LINES * SPOKEN.len()) as u64, "host2 handed on {relayed} bytes only");
    assert_sealed("all links", &links, [&one, &three])?;
    assert_sealed("host2", &inside, [&one, &three])?;
    mesh.stop().await
}
