//! What passes through weft in great numbers: hundreds of megabytes to the byte and in constant memory, streams that go on,
//! and clients that vanish, on engines of two releases.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::join_all;
use weft_integration_tests::{Check, Client, Mesh, SOON, all, docker};
use weft_lab::{Host, Weft, eventually, image};

/// What docker-proxy may need more while hundreds of megabytes pass, in KiB.
const MEMORY: u64 = 20 * 1024;

/// How long many megabytes may take on a machine that is busy with another host's.
const LONG: Duration = Duration::from_secs(90);

/// The client that can build by BuildKit without a plugin: the machine's own.
const BUILDER: &str = "/usr/bin/docker";

/// The Docker API through weft.
const API: &str = "unix:///run/weft/docker/docker.sock";

/// A host, and the process of its docker-proxy.
struct Site<'a> {
    host: &'a Host,
    proxy: String,
}

impl<'a> Site<'a> {
    async fn of(weft: &'a Weft) -> anyhow::Result<Self> {
        let container = weft.container("docker-proxy").await?;
        let proxy = weft.host().docker(&["inspect", "--format", "{{.State.Pid}}", &container]).await?;
        Ok(Self { host: weft.host(), proxy })
    }

    /// Runs lines of the host's shell, in which `docker` is the client through weft, and `engine` that at the engine.
    async fn script(&self, lines: &str) -> anyhow::Result<String> {
        let start = format!(
            "set -eu -o pipefail; docker() {{ DOCKER_HOST={API} command docker \"$@\"; }}; \
             engine() {{ command docker \"$@\"; }}; "
        );
        self.host.command("bash", ["-c", &(start + lines)]).limit(LONG).text().await
    }

    /// Returns the most memory that docker-proxy has had since it was asked to forget, in KiB.
    async fn memory(&self) -> anyhow::Result<u64> {
        let words = ["awk", "/VmHWM/ { print $2 }", &format!("/proc/{}/status", self.proxy)];
        self.host.exec(&words).await?.parse().context("no number")
    }

    async fn forget_memory(&self) -> anyhow::Result<()> {
        self.host.exec(&["sh", "-c", &format!("echo 5 > /proc/{}/clear_refs", self.proxy)]).await.map(drop)
    }

    /// Returns how many files and connections docker-proxy has open.
    async fn open(&self) -> anyhow::Result<usize> {
        Ok(self.host.exec(&["ls", &format!("/proc/{}/fd", self.proxy)]).await?.lines().count())
    }
}

#[tokio::test]
async fn much_passes_unchanged_and_nothing_is_kept() -> anyhow::Result<()> {
    let mesh = Mesh::of_both_engines().await?;
    let outcomes = join_all(mesh.weft.iter().map(run)).await;
    let failed: Vec<_> = outcomes.into_iter().filter_map(|outcome| outcome.err().map(|e| format!("{e:#}"))).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    mesh.stop().await
}

async fn run(weft: &Weft) -> anyhow::Result<()> {
    let site = &Site::of(weft).await?;
    let engine = site.host.docker(&["version", "--format", "{{.Server.Version}}"]).await?;
    site.forget_memory().await?;
    let (memory, open) = (site.memory().await?, site.open().await?);
    let checks = vec![
        Check::new("images", images(site)),
        Check::new("files", files(site)),
        Check::new("builds", builds(site)),
        Check::new("terminals", terminals(site)),
        Check::new("streams", streams(site)),
        Check::new("clients that vanish", vanish(site)),
    ];
    all(&engine, checks).await?;
    let grown = site.memory().await?.saturating_sub(memory);
    ensure!(grown < MEMORY, "{engine}: docker-proxy took {grown} KiB more");
    eventually(&format!("{engine}: docker-proxy has closed what was opened"), SOON, async || {
        let now = site.open().await?;
        ensure!(now <= open, "{now} are open, before it were {open}");
        Ok(())
    })
    .await
}

/// 300 MB that cannot be compressed, in and out as an image.
async fn images(site: &Site<'_>) -> anyhow::Result<()> {
    let script = "mkdir -p /var/lib/docker/big; cd /var/lib/docker/big; \
        head -c 300000000 /dev/urandom > random; tar c random | docker import - big:1 > id; \
        docker save big:1 | tar xO | sha256sum > through; engine save big:1 | tee big.tar | tar xO | sha256sum > direct; \
        cmp through direct; engine rmi big:1 > /dev/null; docker load < big.tar | grep -q 'Loaded image: big:1'; \
        [ $(engine image inspect --format '{{.Id}}' big:1) = $(cat id) ]; \
        engine rmi big:1 > /dev/null; rm -r /var/lib/docker/big";
    site.script(script).await.map(drop)
}

/// 200 MB into a container and out of it, and its whole file system as an image.
async fn files(site: &Site<'_>) -> anyhow::Result<()> {
    let script = format!(
        "mkdir -p /var/lib/docker/files; cd /var/lib/docker/files; head -c 200000000 /dev/urandom > random; \
         docker run --detach --init --name filled {image} sleep 1000 > /dev/null; docker cp random filled:/data/in; \
         docker cp filled:/data/in out; cmp random out; rm out; \
         docker cp filled:/data/in - | tar xO | cmp - random; tar c random | docker cp - filled:/tmp; \
         engine exec filled cmp /tmp/random /data/in; engine exec filled rm /tmp/random; \
         docker export filled | docker import - exported > /dev/null; \
         docker run --rm exported /bin/sha256sum /data/in | cut -d' ' -f1 > inside; \
         sha256sum < random | cut -d' ' -f1 | cmp - inside; engine rm --force filled > /dev/null; \
         engine rmi exported > /dev/null; rm -r /var/lib/docker/files",
        image = image::BUSYBOX
    );
    site.script(&script).await.map(drop)
}

/// Builds of both kinds, with steps that run and a context of 20 MB.
async fn builds(site: &Site<'_>) -> anyhow::Result<()> {
    let prepare = format!(
        "mkdir -p /run/context; cd /run/context; head -c 20000000 /dev/urandom > part; \
         printf 'FROM {image}\\nCOPY part /data/part\\nRUN wc -c < /data/part > /data/count\\nCMD cat /data/count\\n' > Dockerfile; \
         printf 'FROM scratch\\nCOPY part /part\\n' > Scratch",
        image = image::BUSYBOX
    );
    site.script(&prepare).await?;
    for (client, kit) in [("docker", "0"), (BUILDER, "1")] {
        let what = || format!("DOCKER_BUILDKIT={kit}");
        let tag = format!("built:{kit}");
        let build = |words: &str| {
            let line = format!("DOCKER_BUILDKIT={kit} DOCKER_HOST={API} command {client} build --no-cache {words}");
            async move { site.script(&format!("{line} /run/context 2>&1 || {{ echo failed; false; }}")).await }
        };
        build(&format!("--tag {tag}")).await.with_context(what)?;
        let count = site.host.docker_via_proxy(&["run", "--rm", &tag]).await?;
        ensure!(count == "20000000", "{tag} counts {count}");
        build(&format!("--tag bare:{kit} --file /run/context/Scratch")).await.with_context(what)?;
    }
    Ok(())
}

/// A terminal whose size changes while a command runs in it, and one that is attached.
async fn terminals(site: &Site<'_>) -> anyhow::Result<()> {
    let shell = ["run", "--detach", "--interactive", "--tty", "--name", "shell", image::BUSYBOX, "sh"];
    site.host.docker_via_proxy(&shell).await?;
    for line in ["exec --interactive --tty shell sh", "attach shell"] {
        let mut client = Client::in_terminal(site.host, true, line)?;
        let sized = |rows: u8, columns: u8| {
            format!("until [ \"$(stty size)\" = \"{rows} {columns}\" ]; do :; done; echo si''zed {rows}\n")
        };
        client.hears(&sized(33, 77)).await?;
        client.says("sized 33").await.context(line)?;
        client.resize(site.host).await?;
        client.hears(&sized(41, 99)).await?;
        client.says("sized 41").await.context(line)?;
        client.hears("exit 7\n").await?;
        ensure!(client.ends().await? == Some(7), "{line} exits otherwise");
    }
    site.host.docker_via_proxy(&["rm", "shell"]).await.map(drop)
}

/// Streams that go on: each part arrives while the stream is open.
async fn streams(site: &Site<'_>) -> anyhow::Result<()> {
    let steps = "while read line; do echo got $line; [ $line != last ] || exit 4; done";
    let run = ["run", "--detach", "--interactive", "--name", "stepwise", image::BUSYBOX, "sh", "-c", steps];
    let start = |words: &[&str]| Client::start(docker(site.host, true, words));
    let mut events = start(&["events", "--filter", "container=stepwise", "--format", "{{.Action}}", "--since", "1"])?;
    site.host.docker_via_proxy(&run).await?;
    events.says("start\n").await?;
    let mut logs = start(&["logs", "--follow", "stepwise"])?;
    let mut stats = start(&["stats", "--format", "{{.Name}} {{.PIDs}};", "stepwise"])?;
    stats.says("stepwise 1;").await.context("stats")?;
    let mut attached = start(&["attach", "stepwise"])?;
    for line in ["first", "second", "last"] {
        attached.hears(&format!("{line}\n")).await?;
        for client in [&mut attached, &mut logs] {
            client.says(&format!("got {line}\n")).await?;
        }
    }
    ensure!(attached.ends().await? == Some(4), "attach exits otherwise");
    ensure!(logs.ends().await? == Some(0), "the log does not end with the container");
    events.says("die\n").await?;
    stats.kill().await?;
    events.kill().await?;
    site.host.docker_via_proxy(&["rm", "stepwise"]).await.map(drop)
}

/// Clients that are killed in the middle. What they had open is closed: the caller counts.
async fn vanish(site: &Site<'_>) -> anyhow::Result<()> {
    let script = "while :; do echo again; sleep 0.05; done";
    site.host
        .docker_via_proxy(&["run", "--detach", "--init", "--name", "talker", image::BUSYBOX, "sh", "-c", script])
        .await?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        for words in [
            &["logs", "--follow", "talker"][..],
            &["attach", "--no-stdin", "talker"],
            &["exec", "--interactive", "talker", "sh", "-c", script],
        ] {
            let mut client = Client::start(docker(site.host, true, words))?;
            client.says("again").await.with_context(|| format!("{words:?}"))?;
            clients.push(client);
        }
    }
    clients.push(Client::start(docker(site.host, true, &["events"]))?);
    for (client, kit) in [("docker", "0"), (BUILDER, "1")] {
        let build = format!("DOCKER_BUILDKIT={kit} DOCKER_HOST={API} exec {client} build --no-cache - 2>&1");
        let mut building = Client::start(site.host.command("sh", ["-c", &build]))?;
        building.hears(&format!("FROM {}\nRUN echo be''gun; sleep 1000\n", image::BUSYBOX)).await?;
        building.hears_no_more();
        building.says("begun").await.with_context(|| format!("a build with DOCKER_BUILDKIT={kit}"))?;
        clients.push(building);
    }
    for client in clients {
        client.kill().await?;
    }
    // The engine ends the step of a build whose client is gone.
    eventually("the builds have ended", SOON, async || {
        let left = site.host.exec(&["sh", "-c", "pgrep -f '^sleep 1000$' || true"]).await?;
        ensure!(left.lines().count() <= 1, "their processes are {left}");
        Ok(())
    })
    .await?;
    site.host.docker_via_proxy(&["rm", "--force", "talker"]).await.map(drop)
}
