//! Containers outlive weft, on engines of two releases: while it is away they wait for it, and where it was taken off the host
//! they start without it. While the engine is away, clients are told so.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use weft_integration_tests::{Mesh, SOON};
use weft_lab::{Host, Weft, eventually, image};

/// How long the waiting program waits for weft, with what the engine needs to start it.
const WAITS: Duration = Duration::from_secs(20);

/// How long it waits where weft was taken off.
const HARDLY_WAITS: Duration = Duration::from_secs(5);

#[tokio::test]
async fn containers_start_without_weft_where_it_was_taken_off() -> anyhow::Result<()> {
    let mut mesh = Mesh::of_both_engines().await?;
    for number in [1, 2] {
        engine_away(&mut mesh, number).await?;
    }
    let outcomes = join_all(mesh.weft.iter().map(outlive)).await;
    let failed: Vec<_> = outcomes.into_iter().filter_map(|outcome| outcome.err().map(|e| format!("{e:#}"))).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    mesh.stop().await
}

/// Returns what ended a container: its exit code, and all that its log has.
async fn ended(host: &Host, name: &str, limit: Duration) -> anyhow::Result<(String, String)> {
    eventually(&format!("{name} has ended"), limit, async || {
        let state = host.docker(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name]).await?;
        let code = state.strip_prefix("exited ").with_context(|| format!("it is {state}"))?;
        Ok((code.to_owned(), host.docker_command(["logs", name]).output().await?.all()))
    })
    .await
}

async fn outlive(weft: &Weft) -> anyhow::Result<()> {
    let host = weft.host();
    let engine = host.docker(&["version", "--format", "{{.Server.Version}}"]).await?;
    for name in ["one", "two"] {
        let run = ["run", "--name", name, "--read-only", "--user", "user", image::BUSYBOX, "echo", "ran"];
        host.docker_via_proxy(&run).await.with_context(|| engine.clone())?;
    }
    weft.compose(["down", "--volumes"]).text().await?;

    // Stopped only: a promise is kept, or its process ends.
    host.docker(&["start", "one"]).await.with_context(|| engine.clone())?;
    let (code, log) = ended(host, "one", WAITS).await.with_context(|| engine.clone())?;
    ensure!(code == "125", "{engine}: with weft away it ends with {code}: {log}");
    ensure!(log.contains("the interface ethwe did not come up"), "{engine}: its log lacks the reason: {log}");
    ensure!(log.matches("ran").count() == 1, "{engine}: it ran without its network: {log}");

    // Taken off, images and all, but for what containers have mounted.
    weft.compose(["run", "--rm", "router", "--remove"]).text().await?;
    let remove = "docker rmi --force $(docker images --quiet 'weft/*') > /dev/null; rm -r /run/weft; \
                  cd /var/lib/weft; rm -rf router ipam; chmod +t shim/*/weft-wait";
    host.exec(&["sh", "-ec", remove]).await?;
    host.docker(&["start", "two"]).await.with_context(|| engine.clone())?;
    let (code, log) = ended(host, "two", HARDLY_WAITS).await.with_context(|| engine.clone())?;
    ensure!(code == "0" && log.matches("ran").count() == 2, "{engine}: without weft it ends with {code}: {log}");
    ensure!(log.contains("weft was taken off this host"), "{engine}: its log lacks the sentence: {log}");

    // What nobody should remove while containers have it: the engine says what is missing.
    host.exec(&["rm", "-r", "/var/lib/weft"]).await?;
    let refused = host.docker_command(["start", "one"]).output().await?;
    ensure!(refused.stderr.contains("/var/lib/weft/shim"), "{engine}: it says {}", refused.all());
    Ok(())
}

/// Sends a request through weft, and returns the whole answer.
async fn request(host: &Host, line: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(host.path("/run/weft/docker/docker.sock")).await?;
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.context("no answer")??;
    Ok(answer)
}

/// With the engine killed, every call is answered in the engine's own error shape.
async fn engine_away(mesh: &mut Mesh, number: usize) -> anyhow::Result<()> {
    let host = mesh.lab.host(number).clone();
    mesh.lab.kill_engine(number).await?;
    for line in ["GET /v1.41/info", "GET /v1.41/containers/one/json", "POST /v1.41/containers/one/start", "GET /_ping"]
    {
        let answer = request(&host, line).await.with_context(|| line.to_owned())?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{line}: {answer:?}"))?;
        ensure!(head.starts_with("HTTP/1.1 503 "), "{line}: {answer}");
        let body: serde_json::Value = serde_json::from_str(body).with_context(|| answer.clone())?;
        let message = body["message"].as_str().with_context(|| format!("{line}: {answer}"))?;
        ensure!(message.contains("the Docker Engine does not answer") && !message.contains('\n'), "{line}: {message}");
    }
    mesh.lab.start_engine(number).await?;
    eventually("the proxy is back", SOON, async || host.docker_via_proxy(&["version"]).await.map(drop)).await?;
    mesh.on(number).ready().await
}
