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
    hostnet::{self, DesiredTrusted},
    trusted::{Agreed, Fault, pair_number},
};
use weft_service::Shutdown;
use weft_types::PeerName;

use self::{
    link::Link,
    socket::{Arrival, What},
};
use crate::kernel::{Kernel, LinkTraffic, Sources, TrustedState};

/// Trusted peers at most: a bridge has 1023 ports, which containers need too.
const MOST_LINKS: usize = 256;
/// Frames that wait to be looked at: each peer has its share of these places, and drops what finds none.
const ARRIVALS: usize = MOST_LINKS * socket::SHARE;
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
        living: BTreeMap::new(),
        sources,
        state: TrustedState::default(),
        changed: true,
        telling: None,
        retry: None,
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

type Telling = JoinHandle<anyhow::Result<TrustedState>>;
type Asking = JoinHandle<anyhow::Result<BTreeMap<String, LinkTraffic>>>;

#[derive(Debug)]
struct Keeper {
    kernel: Kernel,
    local: PeerName,
    mtu: u16,
    links: BTreeMap<PeerName, Link>,
    /// What lives at each trusted peer.
    living: BTreeMap<PeerName, Arc<hostnet::Sources>>,
    /// Lets new sources in at once; nothing if it cannot be opened.
    sources: Option<Sources>,
    /// What the kernel has, as it said last.
    state: TrustedState,
    /// Whether it has not been told of all.
    changed: bool,
    /// Under way; probes are answered meanwhile.
    telling: Option<Telling>,
    retry: Option<Instant>,
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
                outcome = ended(self.telling.as_mut()) => self.handle_told(outcome),
                outcome = ended(self.asking.as_mut()) => self.handle_traffic(outcome),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.handle_timeout(now());
        }
        if let Some(task) = self.telling.take() {
            // Whatever came of it, all is removed now.
            let _ = task.await;
        }
        let refused = match self.kernel.set_trusted(DesiredTrusted::default(), self.ahead()).await {
            Ok(state) => state.refused,
            Err(error) => format!("{error:#}"),
        };
        if !refused.is_empty() {
            tracing::warn!(error = refused, "devices of trusted peers are left");
        }
    }

    /// Takes whom to trust and what lives where.
    fn update(&mut self, wanted: Wanted) {
        let before = std::mem::replace(&mut self.living, living(&wanted));
        self.let_in(&before);
        self.links.retain(|peer, link| wanted.pairs.get(peer) == Some(&link.agreed));
        let mut numbers: BTreeSet<u32> = self.links.values().map(|link| link.vni).collect();
        for (peer, agreed) in wanted.pairs {
            let vni = pair_number(self.local, peer);
            if self.links.len() < MOST_LINKS && !self.links.contains_key(&peer) && numbers.insert(vni) {
                self.links.insert(peer, Link::new(agreed, vni, self.mtu, now()));
            }
        }
        self.changed = true;
    }

    /// Lets in at once what has come to live at trusted peers whose devices are there.
    fn let_in(&self, before: &BTreeMap<PeerName, Arc<hostnet::Sources>>) {
        let Some(sources) = &self.sources else { return };
        let made = self.links.iter().filter(|(_, link)| self.state.made.contains(&link.vni));
        let new = made.filter_map(|(peer, link)| {
            let (now, before) = (self.living.get(peer)?, before.get(peer));
            let known = |mac| before.and_then(|before| before.get(mac));
            let new = now.iter().filter(|(mac, addresses)| known(mac) != Some(*addresses));
            let new: hostnet::Sources = new.map(|(mac, addresses)| (*mac, addresses.clone())).collect();
            (!new.is_empty()).then(|| link.desired(Arc::new(new)))
        });
        sources.add(new.collect());
    }

    fn ahead(&self) -> u64 {
        self.sources.as_ref().map_or(0, Sources::ahead)
    }

    /// Returns what the kernel should have.
    fn desired(&self) -> DesiredTrusted {
        let link = |(peer, link): (&PeerName, &Link)| link.desired(self.living.get(peer).cloned().unwrap_or_default());
        DesiredTrusted { enabled: true, mtu: self.mtu.into(), links: self.links.iter().map(link).collect() }
    }

    /// Tells the kernel what it should have, unless it was told or is being told.
    fn tell(&mut self) {
        if !self.changed || self.telling.is_some() {
            return;
        }
        self.changed = false;
        let (kernel, desired, ahead) = (self.kernel.clone(), self.desired(), self.ahead());
        self.telling = Some(tokio::spawn(async move { kernel.set_trusted(desired, ahead).await }));
    }

    fn handle_told(&mut self, outcome: anyhow::Result<TrustedState>) {
        self.telling = None;
        match outcome {
            Ok(state) => self.state = state,
            Err(error) => self.state.refused = format!("{error:#}"),
        }
        self.retry = (!self.state.refused.is_empty()).then(|| now() + RETRY);
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
            What::Batch(header, frame) => link.handle_batch(header, &frame),
            What::Broken(error) => {
                tracing::debug!(peer = %arrival.peer, %error, "a device of VXLAN was switched off");
                link.close(now);
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.retry.is_some_and(|retry| retry <= now) {
            self.retry = None;
            self.changed = true;
        }
        if self.traffic_due <= now && self.asking.is_none() && !self.links.is_empty() {
            self.traffic_due = now + TRAFFIC;
            let kernel = self.kernel.clone();
            self.asking = Some(tokio::spawn(async move { kernel.vxlan_traffic().await }));
        }
        for (peer, link) in &mut self.links {
            if self.state.made.contains(&link.vni) && link.wants_sockets(now) {
                self.next += 1;
                link.open(*peer, self.next, &self.arrivals, now);
            }
            link.handle_timeout(self.mtu, now);
            if let Some(used) = link.take_change() {
                let reason = link.way.fault().map(|fault| fault.to_string()).unwrap_or_default();
                tracing::info!(%peer, used, reason, "the way by VXLAN has changed");
                self.changed = true;
            }
        }
    }

    fn poll_timeout(&self) -> Instant {
        let links = self.links.values().map(Link::poll_timeout);
        let traffic = (!self.links.is_empty() && self.asking.is_none()).then_some(self.traffic_due);
        let idle = now() + Duration::from_secs(60);
        links.chain(traffic).chain(self.retry).fold(idle, Instant::min)
    }

    fn show(&self) {
        let view = |link: &Link| {
            let used = link.way.is_used();
            let refused = self.refused(link).filter(|_| !used);
            let fault = link.way.fault();
            let lasts = !matches!(fault, None | Some(Fault::Untried | Fault::Flapped { .. }));
            TrustedView {
                remote: Some(link.agreed.remote),
                used,
                failed: refused.is_some() || lasts,
                reason: refused.or_else(|| fault.map(|fault| fault.to_string())).unwrap_or_default(),
                round_trip: link.way.round_trip(),
                batched: link.way.batches_work(),
                traffic: self.traffic.get(&hostnet::vxlan_name(link.vni)).copied().unwrap_or_default(),
            }
        };
        let shown = self.links.iter().map(|(peer, link)| (*peer, view(link))).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    /// Returns why a link has no device or no sockets; nothing if it has, or has to wait only.
    fn refused(&self, link: &Link) -> Option<String> {
        let by_kernel = !self.state.made.contains(&link.vni) && !self.state.refused.is_empty();
        match link.refused() {
            _ if by_kernel => Some(format!("the kernel refuses VXLAN: {}", self.state.refused)),
            "" => None,
            reason => Some(reason.to_owned()),
        }
    }
}

/// Returns what lives at each peer that there is trust with.
fn living(wanted: &Wanted) -> BTreeMap<PeerName, Arc<hostnet::Sources>> {
    let mut living: BTreeMap<PeerName, hostnet::Sources> = BTreeMap::new();
    for (mac, peer) in wanted.table.macs.iter().filter(|(_, peer)| wanted.pairs.contains_key(peer)) {
        living.entry(*peer).or_default().entry(*mac).or_default();
    }
    for (address, mac) in &wanted.table.addresses {
        let lives = wanted.table.macs.get(mac).and_then(|peer| living.get_mut(peer)?.get_mut(mac));
        if let Some(addresses) = lives {
            addresses.insert(*address);
        }
    }
    for (mac, allowed) in &wanted.table.allowed {
        if let Some(addresses) = wanted.table.macs.get(mac).and_then(|peer| living.get_mut(peer)?.get_mut(mac)) {
            addresses.extend(allowed.iter().filter(|address| wanted.table.allows(*mac, address)));
        }
    }
    living.into_iter().map(|(peer, sources)| (peer, Arc::new(sources))).collect()
}

/// Waits for a task, for ever if there is none.
async fn ended<T>(task: Option<&mut JoinHandle<anyhow::Result<T>>>) -> anyhow::Result<T> {
    match task {
        Some(task) => task.await?,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use weft_types::MacAddress;

    use super::*;

    #[test]
    fn what_lives_at_a_trusted_peer_may_use_what_it_is_allowed_and_nobody_owns() {
        let (peer, mac) = (PeerName::from_public_key([2; 32]), MacAddress::new([2, 0, 0, 0, 0, 2]));
        let address = |text: &str| text.parse::<IpAddr>().expect("valid");
        let table = ForwardingTable {
            macs: [(mac, peer)].into(),
            addresses: [(address("10.32.0.2"), mac)].into(),
            allowed: [(mac, "10.32.0.1,10.32.0.2,10.32.0.100".parse().expect("valid"))].into(),
            local_addresses: [address("10.32.0.1")].into(),
            ..ForwardingTable::default()
        };
        let agreed = Agreed { local: address("192.0.2.1"), remote: address("192.0.2.2") };
        let living = living(&Wanted { pairs: [(peer, agreed)].into(), table: Arc::new(table) });
        assert_eq!(living[&peer][&mac], ["10.32.0.2", "10.32.0.100"].map(address).into());
    }
}
