//! Kernels that lack what makes weft fast: all works without, slower, and the status says what is missing.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use weft_integration_tests::{Container, Conversation, Mesh, PASSWORD, SOON, transfers};
use weft_lab::{Launch, Weft};

/// Every facility that can be missing, as the status names it; the last of them is not used between IPv4 hosts.
const FACILITIES: [&str; 6] =
    ["virtio-header", "tcp-segmentation", "udp-segmentation", "batched-send", "coalesced-receive", "dual-stack"];

/// Has a host's router do without some facilities.
async fn mask(weft: &mut Weft, masked: &str, launch: Launch) -> anyhow::Result<()> {
    weft.recreate("router", launch.with("WEFT_ROUTER_MASK", masked)).await?;
    weft.ready().await
}

/// Fails unless status and command name all that is missing, and nothing that is not masked and was there before.
async fn says_what_is_missing(weft: &Weft, masked: &str, lacking: &BTreeSet<String>) -> anyhow::Result<()> {
    let missing = missing(weft).await?;
    let masked: BTreeSet<String> = masked.split(',').map(str::to_owned).collect();
    // Without the header the TAP device has no other facility either.
    let with_header: BTreeSet<String> = match masked.contains("virtio-header") {
        true => ["tcp-segmentation", "udp-segmentation"].into_iter().map(str::to_owned).collect(),
        false => BTreeSet::new(),
    };
    let expected: BTreeSet<String> = masked.into_iter().chain(with_header).chain(lacking.iter().cloned()).collect();
    ensure!(missing == expected, "{} misses {missing:?}, not {expected:?}", weft.host().name());
    let shown = weft.command(["status"])?.output().await?.all();
    let line = shown.lines().find(|line| line.trim_start().starts_with("Without")).unwrap_or_default();
    ensure!(expected.iter().all(|facility| line.contains(facility)), "`weft status` shows {line:?} of:\n{shown}");
    Ok(())
}

/// Returns what the router misses.
async fn missing(weft: &Weft) -> anyhow::Result<BTreeSet<String>> {
    let data_plane = weft.router_status().await?.data_plane.context("no data plane")?;
    Ok(data_plane.missing_facilities.into_iter().collect())
}

/// Sends small, large and many packets, of both families.
async fn everything_passes(one: &Container, two: &Container) -> anyhow::Result<()> {
    one.pings(&two.ipv4.to_string()).await?;
    for target in [two.ipv4.to_string(), two.ipv6.to_string()] {
        // Cut into pieces by the container itself.
        let large = ["ping", "-c", "2", "-i", "0.1", "-W", "2", "-s", "9000", &target];
        one.in_network(&large).await?.text().await.with_context(|| format!("large packets to {target}"))?;
    }
    tokio::try_join!(transfers(one, two, SOON), transfers(two, one, SOON)).map(drop)
}

#[tokio::test]
async fn all_works_without_each_facility() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(2).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let lacking = missing(mesh.on(1)).await?;
    let mut conversation = Conversation::start(&one, &two).await?;
    let first = mesh.lab.host(1).clone();
    let all = FACILITIES.join(",");
    // Each is missing at one host while the other has it, at the one, then at the other.
    let rounds: Vec<(&str, &str)> = (0..FACILITIES.len())
        .map(|number| (FACILITIES[number], FACILITIES[(number + 3) % FACILITIES.len()]))
        .chain([(&*all, &*all)])
        .collect();
    for (of_one, of_two) in rounds {
        let what = || format!("without {of_one} on host1, and without {of_two} on host2");
        let [weft1, weft2] = &mut mesh.weft[..] else { anyhow::bail!("two hosts were started") };
        let launch = Launch::new(PASSWORD);
        tokio::try_join!(mask(weft1, of_one, launch.clone()), mask(weft2, of_two, launch.peers(&[&first])))
            .with_context(what)?;
        tokio::try_join!(weft1.joined(1), weft2.joined(1)).with_context(what)?;
        tokio::try_join!(says_what_is_missing(weft1, of_one, &lacking), says_what_is_missing(weft2, of_two, &lacking))?;
        everything_passes(&one, &two).await.with_context(what)?;
        conversation.goes_on().await.with_context(what)?;
    }
    mesh.stop().await
}
