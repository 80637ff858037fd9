//! The whole of weft on a host stops and starts: its containers never notice more than silence.

use anyhow::{Context, ensure};
use weft_integration_tests::{A_SECOND, Container, Conversation, Mesh, PASSWORD, SOON};
use weft_lab::{Host, Launch, Project, Weft, eventually};

/// Tag of images that are another version by their name.
const OTHER_VERSION: &str = "another";

/// Since when a container runs, and as which process.
async fn life(container: &Container) -> anyhow::Result<String> {
    let format = "{{.State.StartedAt}} {{.State.Pid}} {{.RestartCount}}";
    container.host.docker(&["inspect", "--format", format, &container.name]).await
}

async fn tag_other_version(host: &Host) -> anyhow::Result<()> {
    for service in ["router", "ipam", "dns", "docker-proxy", "weft"] {
        let (from, to) = (format!("weft/{service}:{}", Project::VERSION), format!("weft/{service}:{OTHER_VERSION}"));
        host.docker(&["tag", &from, &to]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn containers_keep_their_network_while_weft_is_away() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(2).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let host = mesh.lab.host(1).clone();
    tag_other_version(&host).await?;
    let mut conversation = Conversation::start(&one, &two).await?;
    conversation.goes_on().await?;
    let before = life(&one).await?;

    let launch = || Launch::new(PASSWORD);
    for (way, leave, launch) in [
        ("stopped and started", "stop", launch()),
        ("taken down and made anew", "down", launch()),
        ("taken down and made anew as another version", "down", launch().with("WEFT_VERSION", OTHER_VERSION)),
    ] {
        let what = |step: &str| format!("{step} after weft was {way}");
        let doomed =
            mesh.container(1, "doomed", &["--restart", "always"]).await.with_context(|| what("a container"))?;
        let again = mesh.container(1, "again", &["--restart", "always"]).await.with_context(|| what("a container"))?;
        let moved = mesh.container(1, "moved", &[]).await.with_context(|| what("a container"))?;
        two.finds("doomed", Some(doomed.ipv4), SOON).await?;
        mesh.on(1).compose([leave]).text().await?;

        let found = Container::find(&host, "one").await.with_context(|| what("ethwe, while it is away,"))?;
        ensure!((found.ipv4, found.ipv6) == (one.ipv4, one.ipv6), "{}", what("other addresses, while it is away,"));
        host.docker(&["stop", "--time", "1", "doomed"]).await.with_context(|| what("stopping"))?;
        host.docker(&["rm", "doomed"]).await.with_context(|| what("removing"))?;
        host.docker(&["stop", "--time", "1", "moved"]).await.with_context(|| what("stopping"))?;

        // Its process waits for the network, at most a quarter of a minute, and then for the engine to start it again.
        host.docker(&["restart", "--time", "1", "again"]).await.with_context(|| what("restarting"))?;

        mesh.weft[0] = Weft::launch(&host, launch).await.with_context(|| what("getting ready"))?;
        mesh.on(1).joined(1).await.with_context(|| what("joining"))?;
        conversation.goes_on_within(A_SECOND).await.with_context(|| what("the connection"))?;
        ensure!(life(&one).await? == before, "{}", what("a container does not run as before"));
        let found = Container::find(&host, "one").await.with_context(|| what("ethwe"))?;
        ensure!((found.ipv4, found.ipv6) == (one.ipv4, one.ipv6), "{}", what("other addresses"));
        two.finds("one", Some(one.ipv4), A_SECOND).await.with_context(|| what("the name"))?;
        one.finds("two", Some(two.ipv4), A_SECOND).await.with_context(|| what("the name of another"))?;
        two.finds("doomed", None, A_SECOND).await.with_context(|| what("the name of the removed"))?;

        let regained = eventually(&what("ethwe of what was restarted"), A_SECOND, async || {
            let found = Container::find(&host, "again").await?;
            ensure!((found.ipv4, found.ipv6) == (again.ipv4, again.ipv6), "{found:?} was {again:?}");
            Ok(found)
        })
        .await?;
        two.finds("again", Some(regained.ipv4), A_SECOND).await.with_context(|| what("the name of the restarted"))?;
        regained.pings(&two.ipv4.to_string()).await.with_context(|| what("frames of the restarted"))?;
        host.docker_via_proxy(&["rm", "--force", "again"]).await?;

        host.docker_via_proxy(&["start", "moved"]).await.with_context(|| what("starting what was stopped"))?;
        let again = Container::find(&host, "moved").await?;
        ensure!((again.ipv4, again.ipv6) == (moved.ipv4, moved.ipv6), "{}", what("the stopped one moved"));
        host.docker_via_proxy(&["rm", "--force", "moved"]).await?;
        eventually(&what("what was held is given back"), A_SECOND, async || {
            let allocated = mesh.on(1).ipam_status().await?.allocated;
            ensure!(allocated == 1, "{allocated} addresses are held");
            Ok(())
        })
        .await?;
    }
    mesh.stop().await
}
