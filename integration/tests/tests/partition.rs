//! A host that is cut off works on, and so do the others; afterwards all is as if it had not happened.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{Container, Mesh, SOON};
use weft_lab::{Weft, eventually};

/// How long the cut lasts at least.
const CUT: u64 = 60;

/// How long after the cut has ended all may take to be right.
const HEALED: Duration = Duration::from_secs(5);

/// Returns a command that succeeds if the answer for a name has this in it. One look at all names has to be quick.
fn answers(name: &str, expected: &str) -> String {
    format!("nslookup -type=a {name}.weft.internal | grep -q '{expected}'")
}

/// Waits until a host has been cut off for as long as the scenario wants.
async fn cut_off_long_enough(weft: &Weft) -> anyhow::Result<()> {
    eventually("the cut lasts", Duration::from_secs(CUT + 10), async || {
        let problems = weft.router_status().await?.problems;
        let age = problems.iter().filter(|problem| problem.reason == "peer_unreachable").map(|p| p.age_seconds).max();
        ensure!(age >= Some(CUT), "it has lasted {age:?} s");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn both_sides_work_on_and_agree_afterwards() -> anyhow::Result<()> {
    let mesh = Mesh::start(3).await?;
    let before = try_join_all([(1, "one"), (2, "two"), (3, "three"), (3, "other"), (1, "gone1"), (3, "gone3")].map(
        |(host, name)| {
            let mesh = &mesh;
            async move { mesh.container(host, name, &[]).await }
        },
    ))
    .await?;
    let [one, two, three, other, gone1, gone3] = &before[..] else { anyhow::bail!("six were started") };
    one.finds("gone3", Some(gone3.ipv4), SOON).await?;
    three.finds("gone1", Some(gone1.ipv4), SOON).await?;

    mesh.lab.isolate(mesh.lab.host(3)).await?;
    one.finds("three", None, SOON).await?;
    three.finds("one", None, SOON).await?;

    // Removed, restarted, allocated and registered on both sides.
    mesh.lab.host(3).docker_via_proxy(&["rm", "--force", "gone3"]).await?;
    mesh.lab.host(1).docker_via_proxy(&["rm", "--force", "gone1"]).await?;
    mesh.lab.host(3).docker_via_proxy(&["restart", "--time", "1", "three"]).await?;
    mesh.lab.host(2).docker_via_proxy(&["restart", "--time", "1", "two"]).await?;
    for restarted in [two, three] {
        let after = Container::find(&restarted.host, &restarted.name).await?;
        let kept = (after.ipv4, after.ipv6) == (restarted.ipv4, restarted.ipv6);
        ensure!(kept, "restarted while cut off, {restarted:?} became {after:?}");
    }
    other.pings(&three.ipv4.to_string()).await?;
    three.finds("other", Some(other.ipv4), SOON).await?;
    other.finds("three", Some(three.ipv4), SOON).await?;
    other.finds("gone3", None, SOON).await?;
    one.pings(&two.ipv4.to_string()).await?;
    let mut meanwhile = Vec::new();
    for number in 1..=3 {
        for (host, container) in [1, 2, 3].map(|host| (host, format!("new{host}x{number}"))) {
            meanwhile.push(mesh.container(host, &container, &[]).await.context("starting while cut off")?);
        }
    }
    // One name on both sides: its addresses are joined.
    let (same1, same3) = tokio::try_join!(mesh.container(1, "same", &[]), mesh.container(3, "same", &[]))?;
    cut_off_long_enough(mesh.on(1)).await?;

    mesh.lab.rejoin(mesh.lab.host(3)).await?;
    let living: Vec<&Container> = [one, two, three, other].into_iter().chain(&meanwhile).collect();
    let named = living.iter().copied().chain([&same1, &same3]).map(|to| answers(&to.name, &format!(": {}$", to.ipv4)));
    let gone = ["gone1", "gone3"].map(|name| answers(name, "NXDOMAIN"));
    let right = named.chain(gone).collect::<Vec<_>>().join(" && ");
    let sees = |from: &Container| {
        let (from, right) = (from.clone(), right.clone());
        async move {
            let what = format!("{} knows all names", from.name);
            eventually(&what, HEALED, async || from.exec(&["sh", "-xc", &right]).await.map(drop)).await
        }
    };
    try_join_all([one, two, three].map(sees)).await.context("after the cut")?;

    let mut owners = BTreeMap::new();
    for container in living.into_iter().chain([&same1, &same3]) {
        let present = Container::find(&container.host, &container.name).await?;
        for address in [present.ipv4.to_string(), present.ipv6.to_string()] {
            let earlier = owners.insert(address.clone(), (present.host.name().to_owned(), present.name.clone()));
            ensure!(earlier.is_none(), "{address} belongs to {earlier:?} and to {}", present.name);
        }
        for from in [one, two, three] {
            from.pings(&present.ipv4.to_string()).await?;
        }
    }
    for (host, held) in [(1, 5), (2, 4), (3, 6)] {
        let allocated = mesh.on(host).ipam_status().await?.allocated;
        ensure!(allocated == held, "host{host} holds {allocated} addresses, not {held}");
    }
    mesh.stop().await
}
