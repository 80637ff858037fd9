//! What ipam measures: names, units and help are defined here and nowhere else.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};
use weft_ipam_core::{RingState, Share, Status};
use weft_metrics::{Collect, Family, Histogram, Label, Registry, Sheet, Unit};

use crate::driver::Command;

const PEER: Label = Label::new("peer", "the peer's printed name; at most 256 peers");

const RANGE: Family =
    Family::gauge("weft_ipam_range_addresses", Unit::Count, "Addresses of the range that all hosts share.")
        .when("once the router has said who this host is");

const OWNED: Family =
    Family::gauge("weft_ipam_ring_owned_addresses", Unit::Count, "Addresses of the ring that the peer owns.")
        .by(&[PEER])
        .when("while there is a ring");

const FREE: Family = Family::gauge(
    "weft_ipam_ring_free_addresses",
    Unit::Count,
    "Addresses that the peer owns and says are free; exact for this host.",
)
.by(&[PEER])
.when("while there is a ring");

const UNREACHABLE: Family = Family::gauge(
    "weft_ipam_ring_unreachable_addresses",
    Unit::Count,
    "Addresses of the ring that peers own which cannot be reached now.",
);

const ALLOCATED: Family =
    Family::gauge("weft_ipam_allocated_addresses", Unit::Count, "Addresses that containers of this host hold.");

const PENDING: Family = Family::gauge(
    "weft_ipam_pending_requests",
    Unit::Count,
    "Requests for an address that wait, by what they wait for.",
)
.by(&[Label::new(
    "reason",
    "`no_ring`, `exhausted`, `owners_unreachable`, `no_answer`, `router_away`, `address_taken`, `owner_unreachable`",
)]);

const STATE: Family = Family::gauge("weft_ipam_ring_state", Unit::Truth, "Whether there is a ring: 1 for what is so.")
    .by(&[Label::new("state", "`ready`, `electing`, `waiting_for_peers`")]);

const COMMITS: Family = Family::histogram(
    "weft_ipam_commit_duration_seconds",
    Unit::Seconds,
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5],
    "How long it took to have changes on disk, before which nothing is answered.",
);

/// All that ipam measures beside what all services do.
pub const FAMILIES: &[Family] = &[RANGE, OWNED, FREE, UNREACHABLE, ALLOCATED, PENDING, STATE, COMMITS];

/// Most peers that are shown by name.
const PEERS: usize = 256;

const STATES: [&str; 3] = ["ready", "electing", "waiting_for_peers"];

/// What a request may wait for, shown as 0 while none does.
const REASONS: [&str; 7] =
    ["no_ring", "exhausted", "owners_unreachable", "no_answer", "router_away", "address_taken", "owner_unreachable"];

/// Returns the registry and what measures commits.
pub(crate) fn registry() -> (Registry, Histogram) {
    let registry = Registry::new(weft_proto::client::Service::Ipam.name(), weft_service::VERSION, FAMILIES);
    let commits = registry.histogram(&COMMITS, &[]);
    (registry, commits)
}

/// Asks the driver at each scrape.
pub(crate) struct Collector {
    pub(crate) commands: mpsc::Sender<Command>,
}

#[tonic::async_trait]
impl Collect for Collector {
    async fn collect(&self, sheet: &mut Sheet) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Status { reply }).await.is_err() {
            return;
        }
        if let Ok(status) = answer.await {
            write(sheet, status);
        }
    }
}

fn write(sheet: &mut Sheet, status: Option<Status>) {
    let mut pending: BTreeMap<&str, u64> = REASONS.iter().map(|reason| (*reason, 0)).collect();
    let shares: &[Share] = status.as_ref().map_or(&[], |status| &status.shares);
    let unreachable = shares.iter().filter(|share| !share.reachable).map(|share| share.owned).sum();
    sheet.count(&UNREACHABLE, &[], unreachable);
    for share in shares.iter().take(PEERS) {
        sheet.count(&OWNED, &[&share.peer.name], share.owned);
        sheet.count(&FREE, &[&share.peer.name], share.free);
    }
    match &status {
        None => {
            sheet.problems([("router_away", 0.0)]);
            sheet.state(&STATE, &STATES, "waiting_for_peers");
            sheet.count(&ALLOCATED, &[], 0);
        }
        Some(status) => {
            sheet.problems(status.problems.iter().map(|problem| (problem.reason, problem.age.as_secs_f64())));
            let state = match status.state {
                RingState::Ready => "ready",
                RingState::Electing => "electing",
                RingState::WaitingForPeers => "waiting_for_peers",
            };
            sheet.state(&STATE, &STATES, state);
            sheet.set(&RANGE, &[], 2f64.powi(32 - i32::from(status.range.prefix_len())));
            sheet.count(&ALLOCATED, &[], status.allocated as u64);
            for (_, _, _, refusal) in &status.pending {
                *pending.entry(refusal.reason()).or_default() += 1;
            }
        }
    }
    for (reason, count) in pending {
        sheet.count(&PENDING, &[reason], count);
    }
}
