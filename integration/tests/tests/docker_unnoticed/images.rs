//! What Docker shows, and images that are made from containers: as the user wrote them.

use anyhow::ensure;
use weft_integration_tests::{Check, no_trace};
use weft_lab::image;

use crate::{ATTACHED, LINGER, Site};

pub(crate) fn checks<'a>(site: &'a Site<'a>) -> Vec<Check<'a>> {
    vec![
        Check::new("no trace of a container that runs", running(site)),
        Check::new("no trace of one with an init", with_init(site)),
        Check::new("no trace of one that has ended", ended(site)),
        Check::new("no trace of one with an own /dev", own_dev(site)),
        Check::new("an image made from a container", committed(site)),
    ]
}

async fn running(site: &Site<'_>) -> anyhow::Result<()> {
    site.start("shown", &["--label", "a=b", "--volume", "/data", "--health-cmd", "true"], LINGER).await?;
    site.docker(&["exec", "shown", "touch", "/tmp/new"]).await?;
    no_trace(site.host, "shown").await?;
    site.remove(&["shown"]).await
}

async fn with_init(site: &Site<'_>) -> anyhow::Result<()> {
    site.start("with-init", &["--init", "--tty"], LINGER).await?;
    no_trace(site.host, "with-init").await?;
    site.remove(&["with-init"]).await
}

async fn ended(site: &Site<'_>) -> anyhow::Result<()> {
    let run = ["run", "--name", "ended", "--entrypoint", "echo", image::BUSYBOX, "one", "two words"];
    site.docker(&run).await?;
    no_trace(site.host, "ended").await?;
    site.remove(&["ended"]).await
}

async fn own_dev(site: &Site<'_>) -> anyhow::Result<()> {
    site.start("own-dev", &["--volume", "/dev:/dev"], LINGER).await?;
    site.docker(&["cp", "/etc/hostname", "own-dev:/tmp/copied"]).await?;
    site.docker(&["cp", "own-dev:/tmp/copied", "/run/copied"]).await?;
    no_trace(site.host, "own-dev").await?;
    site.remove(&["own-dev"]).await
}

async fn committed(site: &Site<'_>) -> anyhow::Result<()> {
    let script = format!("{ATTACHED} echo made > /tmp/made");
    site.docker(&["run", "--name", "made", image::BUSYBOX, "sh", "-c", &script]).await?;
    let change = "ENV GREETING=hello";
    site.docker(&["commit", "--change", change, "--message", "a message", "made", "made:first"]).await?;
    for at_engine in [false, true] {
        let run = ["run", "--rm", "made:first", "sh", "-c", "cat /tmp/made; echo $GREETING"];
        let said = if at_engine { site.host.docker(&run).await } else { site.docker(&run).await }?;
        ensure!(said == "made\nhello", "the image says {said:?}");
    }
    // With its own command, it starts as the container did.
    site.docker(&["run", "--rm", "made:first"]).await?;
    let format = "{{json .Config.Entrypoint}} {{json .Config.Cmd}} {{json .Config.Labels}} {{json .Config.Env}}";
    let of_image =
        |tag: &'static str| async move { site.host.docker(&["image", "inspect", "--format", format, tag]).await };
    site.host.docker(&["create", "--name", "plain-made", image::BUSYBOX, "sh", "-c", &script]).await?;
    site.host.docker(&["commit", "--change", change, "plain-made", "made:plain"]).await?;
    let (first, plain) = (of_image("made:first").await?, of_image("made:plain").await?);
    // The engine fills an entrypoint of nothing in, but not an empty one: both start the same.
    ensure!(first.replacen("[]", "null", 1) == plain.replacen("[]", "null", 1), "{first}, at the engine {plain}");
    site.remove(&["made", "plain-made"]).await
}
