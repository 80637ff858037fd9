//! Engines that give containers users of their own (`userns-remap`), of two releases: containers are attached as anywhere else.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{Container, Mesh, PASSWORD, SOON, both_engines, no_trace};
use weft_lab::{Host, Lab, Launch, Weft, image};

/// Starts weft where the engine keeps what belongs to the remapped users.
async fn launch(host: &Host, peer: Option<&Host>) -> anyhow::Result<Weft> {
    let root = host.docker(&["info", "--format", "{{.DockerRootDir}}"]).await?;
    ensure!(root != "/var/lib/docker", "the engine remaps no users");
    let launch = Launch::new(PASSWORD).with("WEFT_DOCKER_ROOT", &root);
    Weft::launch(host, peer.into_iter().fold(launch, |launch, peer| launch.peers(&[peer]))).await
}

#[tokio::test]
async fn containers_whose_users_are_remapped_are_attached() -> anyhow::Result<()> {
    let lab = both_engines(Lab::new().setting("userns-remap", "default")).await?;
    let weft = vec![launch(lab.host(1), None).await?, launch(lab.host(2), Some(lab.host(1))).await?];
    let mesh = Mesh { lab, weft };
    try_join_all(mesh.weft.iter().map(|weft| weft.joined(1))).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    for (container, other) in [(&one, &two), (&two, &one)] {
        let engine = container.host.docker(&["version", "--format", "{{.Server.Version}}"]).await?;
        let map = container.exec(&["cat", "/proc/self/uid_map"]).await?;
        ensure!(map.split_whitespace().nth(1) != Some("0"), "{engine}: no user is remapped: {map}");
        container.pings(&other.ipv4.to_string()).await.with_context(|| engine.clone())?;
        container.finds(&other.name, Some(other.ipv4), SOON).await.with_context(|| engine.clone())?;
        let hosts = container.exec(&["sh", "-c", "stat -c %u:%g /etc/hosts; cat /etc/hosts"]).await?;
        ensure!(hosts.starts_with("0:0\n"), "{engine}: the hosts file is another one's: {hosts}");
        ensure!(hosts.contains(&container.ipv4.to_string()), "{engine}: the hosts file lacks the address: {hosts}");
        for options in
            [&["--user", "user"][..], &["--read-only", "--cap-drop", "ALL"], &["--userns", "host"], &["--init"]]
        {
            let words = ["ip", "-o", "addr", "show", "dev", "ethwe"];
            let run = [&["run", "--rm", "--hostname", "chosen"], options, &[image::BUSYBOX], &words[..]].concat();
            let said = container.host.docker_via_proxy(&run).await.with_context(|| format!("{engine}: {options:?}"))?;
            ensure!(said.contains("inet 10."), "{engine}: {options:?}: {said}");
        }
        container.host.docker_via_proxy(&["restart", "--time", "1", &container.name]).await?;
        let again = Container::find(&container.host, &container.name).await.with_context(|| engine.clone())?;
        ensure!(again.ipv4 == container.ipv4, "{engine}: restarted it has {}", again.ipv4);
        let run =
            ["run", "--detach", "--init", "--hostname", "chosen", "--name", "shown", image::BUSYBOX, "sleep", "600"];
        container.host.docker_via_proxy(&run).await.with_context(|| engine.clone())?;
        no_trace(&container.host, "shown").await.with_context(|| engine.clone())?;
    }
    mesh.stop().await
}
