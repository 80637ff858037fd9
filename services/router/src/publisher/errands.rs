//! What waits for ipam and dns: commands, and between them all that is tried until it is done. A service that hangs keeps nothing else
//! waiting, least of all those who are to be led to another container than one that is gone.
//!
//! One thing is done at a time, so that no address is given back that is just being taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Context;
use futures::future::join_all;
use ipnet::{IpNet, Ipv4Net};
use tokio::{
    sync::{Mutex, Notify, mpsc},
    time::{Instant, sleep, timeout},
};
use tonic::transport::Channel;
use weft_proto::ipam::v1::{
    AllocateRequest, Allocation, DualAddress, FreeRequest, ListAllocationsRequest,
    address_service_client::AddressServiceClient,
};

use super::{
    Command, Refused, TICK, View, Which, import,
    state::{Given, State},
};
use crate::published::{HostPort, Terms};

/// Holder of the addresses that the host has to reach containers.
const HOLDER: &str = "weft:publish";

/// How long ipam may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may look for an address, in milliseconds: it is to give up before nobody hears its answer.
const LOOKING: u32 = 4000;

/// Pause before ipam is asked again for what it did not give.
const AGAIN: Duration = Duration::from_secs(3);

/// Addresses that a holder has in ipam.
struct Surplus {
    holder: String,
    addresses: Vec<Given>,
}

pub(super) struct Errands<'a> {
    pub(super) state: &'a Mutex<State>,
    /// Has others take in what changed.
    pub(super) changed: &'a Notify,
    pub(super) ipam: Channel,
    pub(super) dns: Channel,
}

impl Errands<'_> {
    /// Does what it is told, and between that what is left to do, until nobody can tell it anything any more.
    pub(super) async fn run(&self, mut commands: mpsc::Receiver<Command>) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => {
                        self.perform(command).await;
                        pause = Duration::ZERO;
                    }
                    None => return,
                },
                // A command interrupts it: what is not done then is begun again.
                surplus = self.round(pause) => {
                    self.give_back(surplus).await;
                    pause = TICK;
                }
            }
        }
    }

    async fn perform(&self, command: Command) {
        // Whoever asked may have gone meanwhile: what is done stays done.
        match command {
            Command::Publish { port, terms, found, reply } => {
                let _ = reply.send(self.publish(port, terms, &found).await);
            }
            Command::Unpublish { which, reply } => {
                let _ = reply.send(self.unpublish(which).await);
            }
            Command::Import { name, import, known, reply } => {
                let _ = reply.send(self.import(name, import, &known).await);
            }
            Command::Unimport { name, reply } => {
                let _ = reply.send(self.unimport(&name).await);
            }
        }
    }

    /// After a pause tries what is left to do, and returns what is to be given back. Cancel safe: what it holds the state for waits for
    /// nobody.
    async fn round(&self, pause: Duration) -> Option<Vec<Surplus>> {
        sleep(pause).await;
        tokio::join!(self.hold(), self.keep_names());
        self.look().await
    }

    async fn publish(&self, port: HostPort, mut terms: Terms, addresses: &BTreeSet<IpAddr>) -> Result<View, Refused> {
        let (taken, missing) = {
            let mut state = self.state.lock().await;
            let taken = state.begin(port, &mut terms, addresses).await?;
            (taken, terms.subnets.difference(&state.confirmed).copied().collect::<Vec<_>>())
        };
        let asked = missing.into_iter().map(async |subnet| (subnet, self.allocate(HOLDER, Some(subnet)).await));
        let asked = join_all(asked).await;
        let mut state = self.state.lock().await;
        for (subnet, outcome) in asked {
            state.take_in(subnet, outcome);
        }
        let outcome = state.establish(port, terms, taken).await;
        if outcome.is_err() {
            state.let_go();
        }
        state.settle().await;
        outcome
    }

    async fn unpublish(&self, which: Which) -> Result<Vec<View>, Refused> {
        let outcome = {
            let mut state = self.state.lock().await;
            let outcome = state.remove(which).await;
            state.show();
            outcome
        };
        self.sweep().await;
        outcome
    }

    /// Takes addresses from ipam for the subnets and imports that need one, and lets go of those that are needed no longer.
    async fn hold(&self) {
        let (subnets, imports) = {
            let mut state = self.state.lock().await;
            state.let_go();
            let due = |failed: Option<&(String, Instant)>| failed.is_none_or(|(_, at)| at.elapsed() >= AGAIN);
            let subnets = state.published.subnets().into_iter();
            let subnets = subnets.filter(|subnet| !state.confirmed.contains(subnet) && due(state.refused.get(subnet)));
            // ipam may have given their addresses to others when this host was away for long.
            let imports = state.published.imports.keys();
            let imports = imports
                .filter(|name| !state.confirmed_imports.contains(*name) && due(state.refused_imports.get(*name)));
            (subnets.collect::<Vec<_>>(), imports.cloned().collect::<Vec<_>>())
        };
        // One that takes its time keeps no other waiting.
        let subnets = join_all(subnets.into_iter().map(async |subnet| {
            let outcome = self.allocate(HOLDER, Some(subnet)).await;
            self.state.lock().await.take_in(subnet, outcome);
            self.changed.notify_one();
        }));
        let imports = join_all(imports.into_iter().map(async |name| {
            let outcome = self.allocate(&import::holder(&name), None).await;
            self.state.lock().await.take_in_import(name, outcome);
            self.changed.notify_one();
        }));
        tokio::join!(subnets, imports);
    }

    /// Gives addresses back that ipam holds for what there is no longer; whatever fails is tried again. What an earlier run did not
    /// come to give back is found as well.
    pub(super) async fn sweep(&self) {
        let surplus = self.look().await;
        self.give_back(surplus).await;
    }

    /// Looks for what is to be given back; `None` if that cannot be told now.
    async fn look(&self) -> Option<Vec<Surplus>> {
        let (held, imports) = {
            let state = self.state.lock().await;
            if !state.may_give_back() {
                return None;
            }
            let imports = state.published.imports.iter().map(|(name, import)| (name.clone(), import.address));
            (state.published.held.clone(), imports.collect::<BTreeMap<_, _>>())
        };
        let listed = self.list().await.inspect_err(not_yet).ok()?;
        let surplus = listed.into_iter().map(|Surplus { holder, mut addresses }| {
            addresses.retain(|(address, _)| match holder.strip_prefix(import::HOLDER) {
                Some(name) => imports.get(name) != Some(&Some(*address)),
                None => holder == HOLDER && !held.contains_key(address),
            });
            Surplus { holder, addresses }
        });
        Some(surplus.filter(|surplus| !surplus.addresses.is_empty()).collect())
    }

    /// Gives it back. Who interrupts that does not know what ipam still holds.
    async fn give_back(&self, surplus: Option<Vec<Surplus>>) {
        let Some(surplus) = surplus else { return };
        for Surplus { holder, addresses } in surplus {
            let gone = async {
                if let Some(name) = holder.strip_prefix(import::HOLDER) {
                    // Nobody is to be led to an address that is somebody else's.
                    let twins = addresses.iter().filter_map(|(_, twin)| Some(IpAddr::V6(twin.as_ref()?.addr())));
                    let named = addresses.iter().map(|(address, _)| IpAddr::V4(address.addr())).chain(twins);
                    self.remove_names(name, &named.collect::<Vec<_>>()).await?;
                }
                self.free(&holder, addresses.iter().map(|(address, _)| *address)).await
            };
            if let Err(error) = gone.await {
                not_yet(&error);
                return;
            }
        }
        self.state.lock().await.unswept = false;
    }

    /// Returns what everybody holds on this host.
    async fn list(&self) -> anyhow::Result<Vec<Surplus>> {
        let mut client = AddressServiceClient::new(self.ipam.clone());
        let answer = timeout(PATIENCE, client.list_allocations(ListAllocationsRequest {}));
        let allocations = answer.await.context("ipam did not answer within 5 s")??.into_inner().allocations;
        let read = |allocation: Allocation| {
            let addresses = allocation.addresses.iter().map(read).collect::<anyhow::Result<_>>()?;
            Ok(Surplus { holder: allocation.container_id, addresses })
        };
        allocations.into_iter().map(read).collect()
    }

    /// Takes an address, of the default subnet if none is named.
    pub(super) async fn allocate(&self, holder: &str, subnet: Option<Ipv4Net>) -> anyhow::Result<Given> {
        // It may be given when nobody waits for it any more.
        self.state.lock().await.unswept = true;
        let mut client = AddressServiceClient::new(self.ipam.clone());
        let subnet = subnet.map(Into::into);
        let request = AllocateRequest { container_id: holder.to_owned(), subnet, timeout_millis: LOOKING };
        let answer = timeout(PATIENCE, client.allocate(request)).await.context("ipam did not answer within 5 s")?;
        let address = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner().address;
        read(&address.context("ipam names no address")?)
    }

    async fn free(&self, holder: &str, addresses: impl Iterator<Item = Ipv4Net>) -> anyhow::Result<()> {
        let mut client = AddressServiceClient::new(self.ipam.clone());
        let addresses = addresses.map(Into::into).collect();
        let request = FreeRequest { container_id: holder.to_owned(), addresses };
        let answer = timeout(PATIENCE, client.free(request)).await.context("ipam did not answer within 5 s")?;
        answer.map_err(|status| anyhow::anyhow!("{}", status.message())).map(drop)
    }
}

fn not_yet(error: &anyhow::Error) {
    tracing::debug!(error = %format_args!("{error:#}"), "addresses are not given back yet");
}

/// Reads an address and its twin.
fn read(address: &DualAddress) -> anyhow::Result<Given> {
    let v4 = Ipv4Net::try_from(address.v4.as_ref().context("ipam names no address of IPv4")?)?;
    match address.v6.as_ref().map(IpNet::try_from).transpose()? {
        Some(IpNet::V6(twin)) => Ok((v4, Some(twin))),
        Some(IpNet::V4(_)) | None => Ok((v4, None)),
    }
}
