//! Hosts that have IPv6 only between them. What containers see is the same.

use anyhow::ensure;
use futures::future::try_join_all;
use weft_integration_tests::{Mesh, PASSWORD, SOON, hosts_with_images, only_ipv6};
use weft_lab::{Launch, Weft};

#[tokio::test]
async fn hosts_join_over_ipv6() -> anyhow::Result<()> {
    let lab = hosts_with_images(3).await?;
    try_join_all(lab.hosts().iter().map(only_ipv6)).await?;
    let first = lab.host(1).ipv6();
    let by_address = format!("[{first}]");
    let with_port = format!("[{first}]:6783");
    let launches = [
        Launch::new(PASSWORD),
        Launch::new(PASSWORD).with("WEFT_PEERS", &by_address),
        Launch::new(PASSWORD).with("WEFT_PEERS", &format!("host2,{with_port}")),
    ];
    let weft = try_join_all(lab.hosts().iter().zip(launches).map(|(host, launch)| Weft::launch(host, launch))).await?;
    try_join_all(weft.iter().map(|weft| weft.joined(2))).await?;
    let mesh = Mesh { lab, weft };

    let containers = try_join_all([(1, "one"), (2, "two"), (3, "three")].map(|(host, name)| {
        let mesh = &mesh;
        async move { mesh.container(host, name, &[]).await }
    }))
    .await?;
    for from in &containers {
        for to in &containers {
            from.pings(&to.ipv4.to_string()).await?;
            from.pings(&to.ipv6.to_string()).await?;
            from.finds(&to.name, Some(to.ipv4), SOON).await?;
        }
    }
    for weft in &mesh.weft {
        let problems = weft.router_status().await?.problems;
        ensure!(problems.is_empty(), "all is well, but {} reports {problems:?}", weft.host().name());
    }
    mesh.stop().await
}
