//! Keeps kernel VXLAN with trusted peers: has devices made, proves each way, and has frames go there while it holds.
//!
//! One task owns all of it. It is told by [`TrustedHandle::update`] whom to trust and what lives where, and shows
//! what became of it in [`TrustedHandle::shown`]. What it decides by is `weft_router_core::trusted`.

mod link;
mod socket;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use weft_router_core::{
    forward::ForwardingTable,
    hostnet::{DesiredTrusted, TrustedLink},
    trusted::{Agreed, Fault, pair_number},
};
use weft_service::Shutdown;
use weft_types::{MacAddress, PeerName};

use self::{
    link::Link,
    socket::{Arrival, What},
};
use crate::kernel::{Kernel, LinkTraffic, Sources};

/// Frames that wait to be looked at; more are dropped, and asked for again.
const ARRIVALS: usize = 256;
/// Trusted peers at most: a bridge has 1023 ports, which containers need too.
const MOST_LINKS: usize = 256;
/// How soon what the kernel refused is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often what links have carried is asked for.
const TRAFFIC: Duration = Duration::from_secs(1);

/// The way to a trusted peer, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedView {
    /// Where datagrams go.
    pub remote: Option<IpAddr>,
    /// Whether frames go there.
    pub used: bool,
    /// Why not; empty while they do.
    pub reason: String,
    /// Whether that takes somebody to change something, and not only time.
    pub failed: bool,
    /// Of its probes.
    pub round_trip: Option<Duration>,
    /// Whether batches are proven.
    pub batched: bool,
    /// What it has carried.
    pub traffic: LinkTraffic,
}

/// What the task is told.
#[derive(Debug, Clone, Default)]
struct Wanted {
    pairs: BTreeMap<PeerName, Agreed>,
    table: Arc<ForwardingTable>,
}

type Shown = Arc<Mutex<BTreeMap<PeerName, TrustedView>>>;

/// Reaches the task.
#[derive(Debug)]
pub struct TrustedHandle {
    wanted: watch::Sender<Wanted>,
    shown: Shown,
}

impl TrustedHandle {
    /// Says with which peers there is trust, and what lives where.
    pub fn update(&self, pairs: BTreeMap<PeerName, Agreed>, table: Arc<ForwardingTable>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.pairs != pairs || wanted.table != table;
            *wanted = Wanted { pairs, table };
            changed
        });
    }

    /// Returns how the ways to trusted peers are.
    #[must_use]
    pub fn shown(&self) -> BTreeMap<PeerName, TrustedView> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts the task, which ends with `shutdown` and leaves no device. Without trusted subnets (`enabled`) it has nothing to do.
#[must_use]
pub fn spawn(
    kernel: Kernel,
    local: PeerName,
    mtu: u16,
    enabled: bool,
    shutdown: Shutdown,
) -> (TrustedHandle, JoinHandle<()>) {
    let (sender, wanted) = watch::channel(Wanted::default());
    let shown = Shown::default();
    let (arrival_sender, arrivals) = mpsc::channel(ARRIVALS);
    let sources = if enabled { kernel.sources().ok() } else { None };
    let keeper = Keeper {
        kernel,
        local,
        mtu,
        links: BTreeMap::new(),
        table: Arc::default(),
        sources,
        told: None,
        telling: None,
        retry: None,
        refused: String::new(),
        traffic: BTreeMap::new(),
        asking: None,
        traffic_due: now(),
        arrivals: arrival_sender,
        next: 0,
        shown: Arc::clone(&shown),
    };
    let task = tokio::spawn(async move {
        if enabled {
            keeper.run(wanted, arrivals, shutdown).await;
        }
    });
    (TrustedHandle { wanted: sender, shown }, task)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

type Telling = JoinHandle<anyhow::Result<()>>;
type Asking = JoinHandle<anyhow::Result<BTreeMap<String, LinkTraffic>>>;

#[derive(Debug)]
struct Keeper {
    kernel: Kernel,
    local: PeerName,
    mtu: u16,
    links: BTreeMap<PeerName, Link>,
    table: Arc<ForwardingTable>,
    /// Lets new sources in at once; nothing if it cannot be opened.
    sources: Option<Sources>,
    /// What the kernel has, as far as it said so.
    told: Option<DesiredTrusted>,
    /// Under way; probes are answered meanwhile.
    telling: Option<(DesiredTrusted, Telling)>,
    retry: Option<Instant>,
    /// Why the kernel did not do as it was told.
    refused: String,
    traffic: BTreeMap<String, LinkTraffic>,
    asking: Option<Asking>,
    traffic_due: Instant,
    arrivals: mpsc::Sender<Arrival>,
    /// Numbers sockets.
    next: u64,
    shown: Shown,
}

impl Keeper {
    async fn run(
        mut self,
        mut wanted: watch::Receiver<Wanted>,
        mut arrivals: mpsc::Receiver<Arrival>,
        shutdown: Shutdown,
    ) {
        loop {
            self.tell();
            self.show();
            let wake = self.poll_timeout();
            tokio::select! {
                () = shutdown.requested() => break,
                changed = wanted.changed() => match changed {
                    Ok(()) => {
                        let wanted = wanted.borrow_and_update().clone();
                        self.update(wanted);
                    }
                    Err(_) => break,
                },
                Some(arrival) = arrivals.recv() => self.handle_arrival(arrival),
                outcome = ended(self.telling.as_mut().map(|(_, task)| task)) => self.handle_told(outcome),
                outcome = ended(self.asking.as_mut()) => self.handle_traffic(outcome),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.handle_timeout(now());
        }
        if let Some((_, task)) = self.telling.take() {
            // Whatever came of it, all is removed now.
            let _ = task.await;
        }
        if let Err(error) = self.kernel.set_trusted(DesiredTrusted::default()).await {
            tracing::warn!(error = %format_args!("{error:#}"), "devices of trusted peers are left");
        }
    }

    /// Takes whom to trust and what lives where.
    fn update(&mut self, wanted: Wanted) {
        self.let_in(&wanted.table);
        self.table = wanted.table;
        self.links.retain(|peer, link| wanted.pairs.get(peer) == Some(&link.agreed));
        let mut numbers: BTreeSet<u32> = self.links.values().map(|link| link.vni).collect();
        for (peer, agreed) in wanted.pairs {
            let vni = pair_number(self.local, peer);
            if self.links.len() < MOST_LINKS && !self.links.contains_key(&peer) && numbers.insert(vni) {
                self.links.insert(peer, Link::new(agreed, vni, self.mtu, now()));
            }
        }
    }

    /// Lets in at once what has come to live at trusted peers whose devices are there.
    fn let_in(&mut self, table: &ForwardingTable) {
        let Some(sources) = &mut self.sources else { return };
        let moved = table.macs.iter().filter(|(mac, peer)| self.table.macs.get(mac) != Some(peer)).map(|(mac, _)| *mac);
        let named = table.addresses.iter().filter(|(address, mac)| self.table.addresses.get(address) != Some(mac));
        let new: BTreeSet<MacAddress> = moved.chain(named.map(|(_, mac)| *mac)).collect();
        let mut links: BTreeMap<PeerName, TrustedLink> = BTreeMap::new();
        for mac in &new {
            let Some(peer) = table.macs.get(mac) else { continue };
            let Some(made) = self.told.iter().flat_map(|told| &told.links).find(|made| {
                self.links.get(peer).is_some_and(|link| (link.vni, link.agreed.remote) == (made.vni, made.remote))
            }) else {
                continue;
            };
            let link = links.entry(*peer).or_insert_with(|| TrustedLink { sources: BTreeMap::new(), ..made.clone() });
            link.sources.insert(*mac, BTreeSet::new());
        }
        for (address, mac) in table.addresses.iter().filter(|(_, mac)| new.contains(mac)) {
            let link = table.macs.get(mac).and_then(|peer| links.get_mut(peer));
            if let Some(addresses) = link.and_then(|link| link.sources.get_mut(mac)) {
                addresses.insert(*address);
            }
        }
        let links: Vec<TrustedLink> = links.into_values().collect();
        if let Err(error) = sources.add(&links) {
            tracing::debug!(error = %format_args!("{error:#}"), "new sources are let in later");
        }
    }

    /// Returns what the kernel should have.
    fn desired(&self) -> DesiredTrusted {
        let mut sources: BTreeMap<PeerName, BTreeMap<MacAddress, BTreeSet<IpAddr>>> = BTreeMap::new();
        for (mac, peer) in &self.table.macs {
            sources.entry(*peer).or_default().entry(*mac).or_default();
        }
        for (address, mac) in &self.table.addresses {
            let lives = self.table.macs.get(mac).and_then(|peer| sources.get_mut(peer)?.get_mut(mac));
            if let Some(addresses) = lives {
                addresses.insert(*address);
            }
        }
        let link = |(peer, link): (&PeerName, &Link)| TrustedLink {
            vni: link.vni,
            local: link.agreed.local,
            remote: link.agreed.remote,
            sources: sources.remove(peer).unwrap_or_default(),
            used: link.way.is_used(),
        };
        let ahead = self.sources.as_ref().map_or(0, Sources::ahead);
        DesiredTrusted { enabled: true, mtu: self.mtu.into(), links: self.links.iter().map(link).collect(), ahead }
    }

    /// Tells the kernel what it should have, unless it has it or is being told.
    fn tell(&mut self) {
        if self.telling.is_some() || self.retry.is_some() {
            return;
        }
        let desired = self.desired();
        if self.told.as_ref() != Some(&desired) {
            let (kernel, wanted) = (self.kernel.clone(), desired.clone());
            self.telling = Some((desired, tokio::spawn(async move { kernel.set_trusted(wanted).await })));
        }
    }

    fn handle_told(&mut self, outcome: anyhow::Result<()>) {
        let Some((desired, _)) = self.telling.take() else { return };
        match outcome {
            Ok(()) => {
                self.told = Some(desired);
                self.refused.clear();
            }
            Err(error) => {
                self.told = None;
                self.refused = format!("the kernel refuses VXLAN: {error:#}");
                self.retry = Some(now() + RETRY);
            }
        }
    }

    fn handle_traffic(&mut self, outcome: anyhow::Result<BTreeMap<String, LinkTraffic>>) {
        self.asking = None;
        match outcome {
            Ok(traffic) => self.traffic = traffic,
            Err(error) => tracing::debug!(%error, "the kernel does not tell what links have carried"),
        }
    }

    fn handle_arrival(&mut self, arrival: Arrival) {
        let now = now();
        let Some(link) = self.links.get_mut(&arrival.peer).filter(|link| link.number() == Some(arrival.number)) else {
            return;
        };
        match arrival.what {
            What::Probe(probe) => link.handle_probe(probe, now),
            What::Batch(flags, frame) => link.handle_batch(flags, &frame, self.mtu),
            What::Broken(error) => {
                tracing::debug!(peer = %arrival.peer, %error, "a device of VXLAN was switched off");
                link.close(now);
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.retry.is_some_and(|retry| retry <= now) {
            self.retry = None;
        }
        if self.traffic_due <= now && self.asking.is_none() && !self.links.is_empty() {
            self.traffic_due = now + TRAFFIC;
            let kernel = self.kernel.clone();
            self.asking = Some(tokio::spawn(async move { kernel.vxlan_traffic().await }));
        }
        let made: BTreeSet<u32> = self.told.iter().flat_map(|told| &told.links).map(|link| link.vni).collect();
        for (peer, link) in &mut self.links {
            if made.contains(&link.vni) && link.wants_sockets(now) {
                self.next += 1;
                link.open(*peer, self.next, &self.arrivals, now);
            }
            let before = link.way.is_used();
            link.handle_timeout(self.mtu, now);
            if link.way.is_used() != before {
                let reason = link.way.fault().map(|fault| fault.to_string()).unwrap_or_default();
                tracing::info!(%peer, used = !before, reason, "the way by VXLAN has changed");
            }
        }
    }

    fn poll_timeout(&self) -> Instant {
        let links = self.links.values().filter_map(Link::poll_timeout);
        let traffic = (!self.links.is_empty() && self.asking.is_none()).then_some(self.traffic_due);
        let idle = now() + Duration::from_secs(60);
        links.chain(traffic).chain(self.retry).fold(idle, Instant::min)
    }

    fn show(&self) {
        let view = |link: &Link| {
            let refused = [link.refused(), &self.refused].into_iter().find(|text| !text.is_empty());
            let fault = link.way.fault();
            let lasts = !matches!(fault, None | Some(Fault::Untried | Fault::Flapped { .. }));
            TrustedView {
                remote: Some(link.agreed.remote),
                used: link.way.is_used(),
                reason: match (refused, fault) {
                    (Some(refused), _) => refused.to_owned(),
                    (None, fault) => fault.map(|fault| fault.to_string()).unwrap_or_default(),
                },
                failed: refused.is_some() || lasts,
                round_trip: link.way.round_trip(),
                batched: link.way.batches_work(),
                traffic: self.traffic.get(&link.name()).copied().unwrap_or_default(),
            }
        };
        let shown = self.links.iter().map(|(peer, link)| (*peer, view(link))).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}

/// Waits for a task, for ever if there is none.
async fn ended<T>(task: Option<&mut JoinHandle<anyhow::Result<T>>>) -> anyhow::Result<T> {
    match task {
        Some(task) => task.await?,
        None => std::future::pending().await,
    }
}
