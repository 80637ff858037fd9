//! Has ports of the host lead to containers, and names inside to services outside: knows what is published and imported, finds out
//! who is there, and tells the kernel.
//!
//! It hears of names from dns, of addresses from the driver, and takes the host's own addresses from ipam. [`state`] has what there
//! is, and follows who is there; [`errands`] changes it as it is told, and does what waits for ipam and dns.

mod asked;
mod errands;
mod forwarder;
mod import;
mod imports;
mod names;
mod state;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tonic::transport::Channel;
use weft_proto::client::{Service, channel};
use weft_router_core::mesh::Problem;
use weft_service::{Shutdown, Store};

use self::{errands::Errands, imports::Imports, names::Names, state::State};
use crate::{
    driver::{self, DriverHandle},
    kernel::Kernel,
    published::{HostPort, Import, Protocol, Published, Target, Terms},
};

/// Commands that may wait; who sends more waits.
const COMMANDS: usize = 64;

/// How often is looked for who is where, and what failed is tried again.
const TICK: Duration = Duration::from_secs(1);

/// How long after the start addresses count as there that were: other hosts are met again within seconds.
const HOLD: Duration = Duration::from_secs(10);

/// What the task starts with.
#[derive(Debug)]
pub struct Parts {
    /// The driver.
    pub driver: DriverHandle,
    /// The owner of kernel network state.
    pub kernel: Kernel,
    /// Where state is kept.
    pub store: Store,
    /// What was published, and is in the kernel.
    pub published: Published,
    /// The overlay's range.
    pub range: Ipv4Net,
    /// Ports of TCP and UDP that are weft's own.
    pub own_ports: BTreeSet<u16>,
}

/// Why something is not published.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Something has to be otherwise first.
    #[error("{0}")]
    NotNow(String),
    /// Somebody did not do what was asked.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

/// A port as it is now.
#[derive(Debug, Clone)]
pub struct View {
    /// Which.
    pub port: HostPort,
    /// Where it leads.
    pub terms: Terms,
    /// Interface addresses of the containers that get connections.
    pub backends: BTreeSet<IpNet>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// All that is listed.
#[derive(Debug)]
struct Shown {
    ports: Vec<View>,
    imports: Vec<ImportView>,
}

#[derive(Debug)]
enum Command {
    Publish {
        port: HostPort,
        terms: Terms,
        found: BTreeSet<IpAddr>,
        reply: oneshot::Sender<Result<View, Refused>>,
    },
    Unpublish {
        which: Which,
        reply: oneshot::Sender<Result<Vec<View>, Refused>>,
    },
    Import {
        name: String,
        import: Import,
        known: BTreeSet<IpAddr>,
        reply: oneshot::Sender<Result<ImportView, Refused>>,
    },
    Unimport {
        name: String,
        reply: oneshot::Sender<Result<Vec<ImportView>, Refused>>,
    },
}

/// A service outside as it is now.
#[derive(Debug, Clone)]
pub struct ImportView {
    /// Its name inside.
    pub name: String,
    /// Where it leads.
    pub import: Import,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Ports that are meant.
#[derive(Debug, Clone, Copy)]
pub struct Which {
    /// Their number.
    pub port: u16,
    /// Of this protocol, or both.
    pub protocol: Option<Protocol>,
    /// Of this address, or whatever it is.
    pub address: Option<IpAddr>,
}

/// Reaches the task.
#[derive(Debug, Clone)]
pub struct PublisherHandle {
    commands: mpsc::Sender<Command>,
    shown: watch::Receiver<Option<Shown>>,
    dns: Channel,
    /// Where the host's root folder is seen.
    host_root: PathBuf,
}

impl PublisherHandle {
    /// Has a port lead to containers.
    ///
    /// # Errors
    /// [`Refused`]; then all is as it was.
    pub async fn publish(&self, port: HostPort, terms: Terms) -> Result<View, Refused> {
        // Who takes his time with an answer keeps nobody else waiting.
        let found = match &terms.target {
            Target::Name(name) => names::ask(&self.dns, name).await?,
            Target::Address(address) => [*address].into(),
        };
        self.ask(|reply| Command::Publish { port, terms, found, reply }).await?
    }

    /// Takes ports back, and returns those that there were.
    ///
    /// # Errors
    /// If they could not be taken back.
    pub async fn unpublish(&self, which: Which) -> Result<Vec<View>, Refused> {
        self.ask(|reply| Command::Unpublish { which, reply }).await?
    }

    /// Lists all ports, in order.
    ///
    /// # Errors
    /// If the router is stopping.
    pub async fn list(&self) -> Result<Vec<View>, Refused> {
        self.shown(|shown| shown.ports.clone()).await
    }

    /// Gives a service outside a name inside.
    ///
    /// # Errors
    /// [`Refused`]; then all is as it was.
    pub async fn import(&self, name: String, mut import: Import) -> Result<ImportView, Refused> {
        import::check_name(&name)?;
        let known = names::ask(&self.dns, &name).await?;
        import.targets = imports::ask(&self.host_root, &import).await.map_err(|why| {
            Refused::NotNow(format!(
                "the host {} is not found ({why}): name one that this host finds, or its address",
                import.host
            ))
        })?;
        self.ask(|reply| Command::Import { name, import, known, reply }).await?
    }

    /// Takes a service outside away, and returns it if it was there.
    ///
    /// # Errors
    /// If it could not be taken away.
    pub async fn unimport(&self, name: String) -> Result<Vec<ImportView>, Refused> {
        self.ask(|reply| Command::Unimport { name, reply }).await?
    }

    /// Lists all services outside, in order of their names.
    ///
    /// # Errors
    /// If the router is stopping.
    pub async fn list_imports(&self) -> Result<Vec<ImportView>, Refused> {
        self.shown(|shown| shown.imports.clone()).await
    }

    /// Returns what was there last, whatever is being done.
    async fn shown<T>(&self, part: impl FnOnce(&Shown) -> T) -> Result<T, Refused> {
        let mut shown = self.shown.clone();
        let shown = shown.wait_for(Option::is_some).await.map_err(|_| stopping())?;
        shown.as_ref().map(part).ok_or_else(stopping)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

fn stopping() -> Refused {
    Refused::NotNow(driver::Stopping.to_string())
}

/// Makes the handle, and what the task of [`run`] is to be given. The last is where it says what is wrong. `sockets` is the folder of
/// the services' sockets, `host_root` where the host's root folder is seen.
#[must_use]
pub fn make(sockets: &Path, host_root: &Path) -> (PublisherHandle, Inbox, watch::Receiver<Vec<Problem>>) {
    let (commands, queue) = mpsc::channel(COMMANDS);
    let (sender, problems) = watch::channel(Vec::new());
    let (show, shown) = watch::channel(None);
    let dns = channel(&Service::Dns.socket(sockets));
    let handle = PublisherHandle { commands, shown, dns, host_root: host_root.to_owned() };
    let inbox = Inbox {
        commands: queue,
        show,
        problems: sender,
        dns: handle.dns.clone(),
        ipam: channel(&Service::Ipam.socket(sockets)),
        host_root: handle.host_root.clone(),
    };
    (handle, inbox, problems)
}

/// What the task listens to, and speaks by.
#[derive(Debug)]
pub struct Inbox {
    commands: mpsc::Receiver<Command>,
    show: watch::Sender<Option<Shown>>,
    problems: watch::Sender<Vec<Problem>>,
    dns: Channel,
    ipam: Channel,
    host_root: PathBuf,
}

/// Does all of it until `shutdown`. What is published stays in the kernel.
pub async fn run(parts: Parts, inbox: Inbox, shutdown: Shutdown) {
    let Inbox { commands, show, problems, dns, ipam, host_root } = inbox;
    let (names, mut of_names) = Names::new(dns.clone());
    let (imports, mut of_imports) = Imports::new(&host_root);
    let state = Mutex::new(State::new(parts, names, imports, show, problems));
    let changed = Notify::new();
    let errands = Errands { state: &state, changed: &changed, ipam, dns };
    let follow = async {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(news) = of_names.recv() => state.lock().await.names.take_in(news),
                Some(news) = of_imports.recv() => state.lock().await.imports.take_in(news),
                () = changed.notified() => {}
                _ = tick.tick() => {}
            }
            state.lock().await.settle().await;
        }
    };
    tokio::select! {
        () = shutdown.requested() => {}
        () = follow => {}
        () = errands.run(commands) => {}
    }
}
