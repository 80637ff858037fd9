//! Calls about containers and what runs in them.

use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::{
    Docker, body_full, body_try_stream,
    container::{AttachContainerResults, CreateCheckpointOptions},
    exec::StartExecResults,
    models::{ContainerConfig, ContainerCreateBody, ContainerUpdateBody, ExecConfig},
    query_parameters::{
        AttachContainerOptionsBuilder, CommitContainerOptionsBuilder, ContainerArchiveInfoOptionsBuilder,
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, ListContainersOptionsBuilder,
        LogsOptionsBuilder, PruneContainersOptions, RemoveContainerOptions, RenameContainerOptionsBuilder,
        ResizeContainerTTYOptionsBuilder, ResizeExecOptionsBuilder, StatsOptionsBuilder, TopOptionsBuilder,
        UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use weft_lab::eventually;

use super::{Calls, IMAGE, archive, body, call, stream};

/// How long a container may take to come to its last command.
const SOON: Duration = Duration::from_secs(20);

pub(super) async fn drive(docker: &Docker, to: &mut Calls) -> anyhow::Result<()> {
    let script = "echo out; sleep 0.2; echo err >&2; trap 'exit 3' TERM; sleep 600 & wait";
    let driven = json!({ "Image": IMAGE, "Cmd": ["sh", "-c", script], "Labels": { "who": "me" }, "OpenStdin": true });
    create(docker, to, "driven", driven.clone()).await;
    create(docker, to, "driven", driven).await;
    create(docker, to, "other", json!({ "Image": "nothing" })).await;
    call!(to, docker.inspect_container("driven", None), "created");
    call!(to, docker.start_container("driven", None));
    call!(to, docker.start_container("driven", None), "again");
    call!(to, docker.start_container("nothing", None), "missing");
    call!(to, docker.inspect_container("driven", None));
    call!(to, docker.list_containers(Some(ListContainersOptionsBuilder::default().all(true).size(true).build())));
    stream!(to, docker.stats("driven", Some(StatsOptionsBuilder::default().stream(false).build())));
    call!(to, docker.container_changes("driven"));
    files(docker, to).await;
    let wanted = TopOptionsBuilder::default().ps_args("-o pid,args").build();
    call!(to, docker.top_processes("driven", Some(wanted)));
    let update: ContainerUpdateBody = body(json!({ "CpuShares": 512 }));
    call!(to, docker.update_container("driven", update));
    call!(to, docker.resize_container_tty("driven", ResizeContainerTTYOptionsBuilder::default().h(33).w(77).build()));
    call!(to, docker.pause_container("driven"));
    call!(to, docker.unpause_container("driven"));
    call!(to, docker.unpause_container("driven"), "again");
    executions(docker, to).await?;
    checkpoints(docker, to).await;
    let commit = CommitContainerOptionsBuilder::default().container("driven").repo("committed").tag("one").build();
    call!(to, docker.commit_container(commit, ContainerConfig::default()));
    call!(to, docker.inspect_image("committed:one"), "committed");
    call!(to, docker.rename_container("driven", RenameContainerOptionsBuilder::default().name("renamed").build()));
    call!(to, docker.restart_container("renamed", None));
    // How much it says before it is killed is chance.
    eventually("the restarted container sleeps", SOON, async || sleeps(docker, "renamed").await).await?;
    call!(to, docker.kill_container("renamed", None));
    stream!(to, docker.wait_container("renamed", None));
    call!(to, docker.stop_container("renamed", None));
    let logs = LogsOptionsBuilder::default().stdout(true).stderr(true).follow(true).build();
    stream!(to, docker.logs("renamed", Some(logs)));
    call!(to, docker.inspect_container("renamed", None), "ended");
    call!(to, docker.remove_container("renamed", None::<RemoveContainerOptions>));
    call!(to, docker.remove_container("renamed", None::<RemoveContainerOptions>), "missing");
    for web in [false, true] {
        attached(docker, to, web).await?;
    }
    call!(to, docker.prune_containers(None::<PruneContainersOptions>));
    Ok(())
}

/// Fails unless a container's program has come to its last command.
async fn sleeps(docker: &Docker, name: &str) -> anyhow::Result<()> {
    let wanted = TopOptionsBuilder::default().ps_args("-o pid,args").build();
    let processes = docker.top_processes(name, Some(wanted)).await?.processes.unwrap_or_default();
    let sleeping = processes.iter().flatten().any(|column| column.starts_with("sleep"));
    ensure!(sleeping, "its processes are {processes:?}");
    Ok(())
}

async fn create(docker: &Docker, to: &mut Calls, name: &str, config: Value) {
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let config: ContainerCreateBody = body(config);
    call!(to, docker.create_container(Some(options), config));
}

async fn files(docker: &Docker, to: &mut Calls) {
    let put = || UploadToContainerOptionsBuilder::default().path("/tmp").build();
    call!(to, docker.upload_to_container("driven", Some(put()), body_full(archive("put", b"this\n"))));
    let pieces: Vec<Result<_, std::io::Error>> =
        archive("pieces", &[7; 90_000]).chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    call!(to, docker.upload_to_container("driven", Some(put()), body_try_stream(stream::iter(pieces))), "in pieces");
    let at = ContainerArchiveInfoOptionsBuilder::default().path("/tmp/put").build();
    if let Ok(info) = docker.get_container_archive_info("driven", Some(at)).await {
        to.record("get_container_archive_info", json!([info.name, info.size]));
    }
    let from = DownloadFromContainerOptionsBuilder::default().path("/tmp/pieces").build();
    stream!(to, docker.download_from_container("driven", Some(from)));
    let nowhere = DownloadFromContainerOptionsBuilder::default().path("/nowhere").build();
    stream!(to, docker.download_from_container("driven", Some(nowhere)), "where nothing is");
    call!(to, docker.container_changes("driven"), "changed");
    stream!(to, docker.export_container("driven"));
}

async fn executions(docker: &Docker, to: &mut Calls) -> anyhow::Result<()> {
    let config: ExecConfig = body(
        json!({ "Cmd": ["sh", "-c", "read line; stty size; echo got $line; exit 5"], "Tty": true, "AttachStdin": true, "AttachStdout": true }),
    );
    let exec = docker.create_exec("driven", config).await.context("no exec")?;
    to.record("create_exec", exec.id.len());
    match docker.start_exec(&exec.id, None).await.context("it does not start")? {
        StartExecResults::Attached { output, mut input } => {
            call!(to, docker.resize_exec(&exec.id, ResizeExecOptionsBuilder::default().h(33).w(77).build()));
            input.write_all(b"one\n").await?;
            to.streamed("start_exec", output).await;
        }
        StartExecResults::Detached => to.record("start_exec", "detached"),
    }
    call!(to, docker.inspect_exec(&exec.id));
    Ok(())
}

async fn checkpoints(docker: &Docker, to: &mut Calls) {
    let one = CreateCheckpointOptions { checkpoint_id: "one".to_owned(), ..CreateCheckpointOptions::default() };
    call!(to, docker.create_checkpoint("driven", one));
    match docker.list_checkpoints("driven", None).await {
        Ok(found) => to.record("list_checkpoints", found.iter().map(|one| one.name.clone()).collect::<Vec<_>>()),
        Err(error) => to.record("list_checkpoints", error.to_string()),
    }
    call!(to, docker.delete_checkpoint("driven", "one", None));
}

/// Converses with a container, over an upgraded connection or a WebSocket.
async fn attached(docker: &Docker, to: &mut Calls, web: bool) -> anyhow::Result<()> {
    let echo = "read line; echo got $line; sleep 0.5; exit 4";
    let config =
        json!({ "Image": IMAGE, "Cmd": ["sh", "-c", echo], "OpenStdin": true, "AttachStdin": true, "StdinOnce": true });
    create(docker, to, "echo", config).await;
    call!(to, docker.start_container("echo", None), "to attach to");
    let options = AttachContainerOptionsBuilder::default().stream(true).stdin(true).stdout(true).stderr(true).build();
    let AttachContainerResults { output, mut input } = match web {
        true => docker.attach_container_websocket("echo", Some(options)).await.context("no WebSocket")?,
        false => docker.attach_container("echo", Some(options)).await.context("not attached")?,
    };
    input.write_all(b"one\n").await?;
    input.flush().await?;
    let output = tokio::time::timeout(Duration::from_secs(10), to.streamed("attach_container", output));
    if output.await.is_err() {
        to.record("attach_container", "does not end");
    }
    stream!(to, docker.wait_container("echo", None), "attached");
    call!(to, docker.remove_container("echo", None::<RemoveContainerOptions>), "attached");
    Ok(())
}
