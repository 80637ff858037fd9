//! What keeps a mesh busy: frames, names, and calls of the Docker API.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    process::Stdio,
};

use anyhow::Context;
use tokio::{process::Child, task::JoinHandle};
use weft_integration_tests::Container;
use weft_lab::{Host, image};

/// Where each host's resolver is.
pub(crate) const RESOLVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5300);

/// What runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    processes: Vec<Child>,
    calls: JoinHandle<()>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.calls.abort();
    }
}

impl Load {
    /// Has a container ping another one and ask for names, and a client of its host call the Docker API.
    pub(crate) async fn start(from: &Container, to: &Container) -> anyhow::Result<Self> {
        let pings = from.in_network(&["ping", "-q", "-i", "0.1", "-s", "1200", &to.ipv4.to_string()]).await?;
        let names = "i=0; while :; do i=$((i+1)); nslookup $0.weft.internal; nslookup name$i.example; sleep 0.2; done";
        let words = ["exec", &from.name, "sh", "-c", names, &to.name];
        let names = from.host.docker_command(words);
        let mut processes = Vec::new();
        for command in [pings, names] {
            let mut command = command.into_tokio();
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            processes.push(command.spawn().context("failed to start load")?);
        }
        Ok(Self { processes, calls: tokio::spawn(calls(from.host.clone())) })
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            process.kill().await.context("failed to end load")?;
        }
        Ok(())
    }
}

/// Calls the Docker API over and over. While a fault is there, calls fail.
async fn calls(host: Host) {
    loop {
        for words in
            [&["ps"][..], &["create", "--name", "unused", image::BUSYBOX], &["inspect", "unused"], &["rm", "unused"]]
        {
            drop(host.docker_via_proxy(words).await);
        }
    }
}
