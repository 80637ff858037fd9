//! What a user of Docker does through weft, on engines of two releases: all of it works as without, and shows nothing of weft.

mod choice;
mod images;
mod life;
mod process;
mod waiting;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{Check, Container, Mesh, all};
use weft_lab::{Host, Output, Weft, image};

/// One of the hosts, each with an engine of its own, and a container of the other one.
struct Site<'a> {
    host: &'a Host,
    weft: &'a Weft,
    /// Its number, for addresses that no other site gives.
    number: u8,
    other: Container,
    /// The engine's version.
    engine: String,
}

impl Site<'_> {
    /// Runs a Docker command through weft.
    async fn docker(&self, words: &[&str]) -> anyhow::Result<String> {
        self.host.docker_via_proxy(words).await
    }

    /// Runs a Docker command through weft to its end, whatever that is.
    async fn output(&self, words: &[&str]) -> anyhow::Result<Output> {
        self.host.proxy_command(words.iter().copied()).output().await
    }

    /// Starts a container of busybox that runs a script in the background.
    async fn start(&self, name: &str, options: &[&str], script: &str) -> anyhow::Result<String> {
        let words = [&["run", "--detach", "--name", name], options, &[image::BUSYBOX, "sh", "-c", script]].concat();
        self.docker(&words).await
    }

    /// Makes an image from a recipe without files.
    async fn build(&self, tag: &str, recipe: &str) -> anyhow::Result<()> {
        let build = self.host.proxy_command(["build", "--quiet", "--tag", tag, "-"]).env("DOCKER_BUILDKIT", "0");
        build.input(recipe).text().await.map(drop)
    }

    /// Returns an address that nobody else is given.
    fn address(&self, last: u8) -> String {
        format!("10.32.{}.{last}", 100 + self.number)
    }

    /// Removes containers.
    async fn remove(&self, names: &[&str]) -> anyhow::Result<()> {
        self.docker(&[&["rm", "--force", "--volumes"], names].concat()).await.map(drop)
    }

    /// Runs something until `heard` finds in its outcome what its program said. Engine 26.1 now and then loses all that a program
    /// says which ends at once, whoever asks; with any other engine it is run once.
    #[expect(clippy::print_stderr, reason = "who looks for a fault is to know of it")]
    async fn until_heard<T>(
        &self,
        what: &str,
        mut run: impl AsyncFnMut() -> anyhow::Result<T>,
        heard: impl Fn(&T) -> bool,
    ) -> anyhow::Result<T> {
        let tries = if self.engine.starts_with("26.1.") { TRIES } else { 1 };
        for tried in 1..tries {
            let outcome = run().await?;
            if heard(&outcome) {
                return Ok(outcome);
            }
            eprintln!("engine {}: try {tried} of {tries}: nothing was heard of {what}", self.engine);
        }
        run().await
    }

    /// Waits for containers to end, and returns what the last one exits with.
    async fn wait(&self, name: &str) -> anyhow::Result<String> {
        self.docker(&["wait", name]).await
    }
}

/// A line of a script that says so if the process has no network yet.
const ATTACHED: &str = "ip -4 -o addr show dev ethwe | grep -q 'inet 10[.]' || echo not attached; ";

/// How often something is run of which nothing was heard, with the engine that loses it.
const TRIES: usize = 3;

/// What a container does until it is told to end, which it does at once.
const LINGER: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

#[tokio::test]
async fn nobody_notices_on_either_engine() -> anyhow::Result<()> {
    let mesh = Mesh::of_both_engines().await?;
    let others = try_join_all([2, 1].map(|number| {
        let mesh = &mesh;
        async move { mesh.container(number, &format!("beside{number}"), &[]).await }
    }))
    .await?;
    let sites = try_join_all(others.into_iter().zip([1_u8, 2]).map(|(other, number)| {
        let (host, weft) = (mesh.lab.host(number.into()), mesh.on(number.into()));
        async move {
            let engine = host.docker(&["version", "--format", "{{.Server.Version}}"]).await?;
            anyhow::Ok(Site { host, weft, number, other, engine })
        }
    }))
    .await?;
    let outcomes = futures::future::join_all(sites.iter().map(run)).await;
    let failed: Vec<_> = outcomes.into_iter().filter_map(|outcome| outcome.err().map(|e| format!("{e:#}"))).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    drop(sites);
    mesh.stop().await
}

async fn run(site: &Site<'_>) -> anyhow::Result<()> {
    let engine = &site.engine;
    let checks =
        [choice::checks(site), life::checks(site), process::checks(site), images::checks(site)].into_iter().flatten();
    let side_by_side = all(engine, checks.collect()).await;
    // While nothing else needs ipam.
    let waiting = all(engine, vec![Check::new("while a container waits", waiting::check(site))]).await;
    let left = nothing_left(site).await.with_context(|| format!("{engine}: at the end"));
    let failed: Vec<_> =
        [side_by_side, waiting, left].into_iter().filter_map(|o| o.err().map(|e| format!("{e:#}"))).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// Waits until only the one container of the site holds an address.
async fn nothing_left(site: &Site<'_>) -> anyhow::Result<()> {
    weft_lab::eventually("all addresses are given back", weft_integration_tests::SOON, async || {
        let allocated = site.weft.ipam_status().await?.allocated;
        ensure!(allocated == 1, "{allocated} addresses are held");
        Ok(())
    })
    .await
}
