//! Containers on all hosts reach each other by address and by name, over IPv4 and IPv6.

use anyhow::ensure;
use weft_integration_tests::Mesh;

#[tokio::test]
async fn containers_on_three_hosts_reach_each_other() -> anyhow::Result<()> {
    let mesh = Mesh::start(3).await?;
    let mut containers = Vec::new();
    for (host, name) in [(1, "one"), (2, "two"), (3, "three"), (1, "four")] {
        containers.push(mesh.container(host, name, &[]).await?);
    }

    for from in &containers {
        for to in &containers {
            from.pings(&to.ipv4.to_string()).await?;
            from.pings(&to.ipv6.to_string()).await?;
            from.pings(&format!("{}.weft.internal", to.name)).await?;
            let answer = from.resolves(&format!("{}.weft.internal", to.name)).await?;
            for address in [to.ipv4.to_string(), to.ipv6.to_string()] {
                ensure!(answer.contains(&address), "{} is not {address} to {}: {answer}", to.name, from.name);
            }
        }
    }

    let (one, two) = (&containers[0], &containers[1]);
    // The search list makes the short name do.
    one.pings("two").await?;
    let reverse = one.resolves(&two.ipv4.to_string()).await?;
    ensure!(reverse.contains("two.weft.internal"), "{} is nobody: {reverse}", two.ipv4);
    let unknown = one.exec(&["nslookup", "nobody.weft.internal"]).await;
    ensure!(format!("{unknown:?}").contains("NXDOMAIN"), "a name that nobody has: {unknown:?}");
    for weft in &mesh.weft {
        let problems = weft.router_status().await?.problems;
        ensure!(problems.is_empty(), "all is well, but {} reports {problems:?}", weft.host().name());
    }
    mesh.stop().await
}
