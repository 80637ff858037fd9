//! Options of docker-proxy that the router carries out, before engines of two releases.

use anyhow::ensure;
use futures::future::try_join_all;
use weft_integration_tests::{Container, PASSWORD, both_engines};
use weft_lab::{Lab, Launch, Weft};

/// What a container has that nobody declined.
async fn has(container: &Container) -> anyhow::Result<(bool, bool)> {
    let hosts = container.exec(&["cat", "/etc/hosts"]).await?;
    let routes = container.exec(&["ip", "route", "show", "dev", "ethwe"]).await?;
    Ok((hosts.contains(&container.ipv4.to_string()), routes.contains("224.0.0.0/4")))
}

#[tokio::test]
async fn containers_have_no_hosts_file_and_no_multicast_route_of_weft_s_where_that_is_declined() -> anyhow::Result<()> {
    let lab = both_engines(Lab::new()).await?;
    try_join_all(lab.hosts().iter().map(|host| async move {
        Weft::launch(host, Launch::new(PASSWORD)).await?;
        let plain = Container::start(host, "plain", &[]).await?;
        ensure!(has(&plain).await? == (true, true), "{}: what is usual is missing", host.name());

        let launch = Launch::new(PASSWORD)
            .with("WEFT_DOCKER_PROXY_NO_REWRITE_HOSTS", "1")
            .with("WEFT_DOCKER_PROXY_NO_MULTICAST_ROUTE", "1");
        Weft::launch(host, launch).await?;
        let declined = Container::start(host, "declined", &[]).await?;
        ensure!(has(&declined).await? == (false, false), "{}: what was declined is there", host.name());
        declined.pings(&plain.ipv4.to_string()).await
    }))
    .await?;
    lab.stop().await
}
