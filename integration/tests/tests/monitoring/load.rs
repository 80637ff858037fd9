//! What keeps a mesh busy: frames, names, and calls of the Docker API.

use std::{net::UdpSocket, process::Stdio};

use anyhow::Context;
use tokio::{process::Child, task::JoinHandle};
use weft_integration_tests::Container;
use weft_lab::{Host, Weft, image};

/// Where each host's resolver is.
pub(crate) const RESOLVER: &str = "127.0.0.1:5300";

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

/// A resolver of a host that knows every name; it answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Resolver(JoinHandle<()>);

impl Drop for Resolver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Resolver {
    /// Starts it on a host that runs weft.
    pub(crate) async fn start(weft: &Weft) -> anyhow::Result<Self> {
        // dns is on the host's own network.
        let container = weft.container("dns").await?;
        let open = || {
            let socket = UdpSocket::bind(RESOLVER).context("failed to open a resolver's socket")?;
            socket.set_nonblocking(true).context("failed to set a socket up")?;
            Ok(socket)
        };
        let socket = weft.host().open_in_network_of(&container, open).await?;
        let socket = tokio::net::UdpSocket::from_std(socket).context("failed to use a resolver's socket")?;
        Ok(Self(tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                if let Some(answer) = answer(&query[..length]) {
                    drop(socket.send_to(&answer, client).await);
                }
            }
        })))
    }
}

/// Answers a query (RFC 1035, section 4.1): an address for A, nothing for other types.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = query.get(HEADER..)?.iter().position(|length| *length == 0)?;
    let question = query.get(HEADER..HEADER + name + 5)?;
    let is_address = question[name + 1..name + 3] == [0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    answer.extend(question);
    if is_address {
        // The question's name, type A, class IN, not to be kept, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 1]);
    }
    Some(answer)
}
