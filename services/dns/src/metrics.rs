//! What dns measures: names, units and help are defined here and nowhere else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use weft_dns_core::Origin;
use weft_metrics::{Collect, Counter, Family, Histogram, Label, Registry, Sheet, Unit};

use crate::{state::State, upstream::Upstream};

const QUERIES: Family = Family::counter(
    "weft_dns_queries_total",
    Unit::Count,
    "Queries that were answered, by the type of record asked for and by the answer.",
)
.by(&[
    Label::new("kind", "`a`, `aaaa`, `ptr`, `srv`, `mx`, `txt`, `other`"),
    Label::new(
        "result",
        "`answered`, `empty` (the name has no such record), `nxdomain`, `servfail`, `refused`, `other`",
    ),
]);

const DURATION: Family = Family::histogram(
    "weft_dns_query_duration_seconds",
    Unit::Seconds,
    &[0.00005, 0.0001, 0.00025, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0],
    "How long answering took, by who knew the answer.",
)
.by(&[Label::new("source", "`weft` (from memory), `upstream` (the host's resolvers, or what they said before)")]);

const FORWARDED: Family = Family::counter(
    "weft_dns_upstream_queries_total",
    Unit::Count,
    "Queries for the host's resolvers, by what came of them.",
)
.by(&[Label::new(
    "result",
    "`answered`, `failed` (no resolver answered), `timeout`, `overload` (too many waited), `no_upstream` (there is none)",
)]);

const UPSTREAM_UP: Family = Family::gauge(
    "weft_dns_upstream_up",
    Unit::Truth,
    "Whether there is a resolver to forward to, and the last query for it was answered.",
);

const UPSTREAMS: Family =
    Family::gauge("weft_dns_upstreams", Unit::Count, "Resolvers of the host that queries may be forwarded to.");

const IN_FLIGHT: Family =
    Family::gauge("weft_dns_upstream_queries_in_flight", Unit::Count, "Queries that wait for the host's resolvers.");

const RECORDS: Family = Family::gauge(
    "weft_dns_records",
    Unit::Count,
    "Containers, and addresses with names by hand, that have names, by where they are and whether they are answered.",
)
.by(&[Label::new("state", "`local`, `remote`, `suspended` (their host cannot be reached: not answered)")]);

const UNHEALTHY: Family = Family::gauge(
    "weft_dns_unhealthy_records",
    Unit::Count,
    "Those of `weft_dns_records` that are called unhealthy by the container's health check.",
);

/// All that dns measures beside what all services do.
pub const FAMILIES: &[Family] = &[QUERIES, DURATION, FORWARDED, UPSTREAM_UP, UPSTREAMS, IN_FLIGHT, RECORDS, UNHEALTHY];

const KINDS: [&str; 7] = ["a", "aaaa", "ptr", "srv", "mx", "txt", "other"];
/// Types that have a word of their own, in the order of the words.
const TYPES: [RecordType; 6] =
    [RecordType::A, RecordType::AAAA, RecordType::PTR, RecordType::SRV, RecordType::MX, RecordType::TXT];

const RESULTS: [&str; 6] = ["answered", "nxdomain", "servfail", "refused", "empty", "other"];
/// Codes that have a word of their own, in the order of the words.
const CODES: [ResponseCode; 4] =
    [ResponseCode::NoError, ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::Refused];
/// Place of the word for an answer without records.
const EMPTY: usize = 4;

/// What came of a query for the host's resolvers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    Failed,
    Timeout,
    Overload,
    NoUpstream,
}

impl Outcome {
    const ALL: [(Self, &str); 5] = [
        (Self::Answered, "answered"),
        (Self::Failed, "failed"),
        (Self::Timeout, "timeout"),
        (Self::Overload, "overload"),
        (Self::NoUpstream, "no_upstream"),
    ];
}

/// Counts queries.
#[derive(Debug)]
pub(crate) struct Metrics {
    queries: [[Counter; RESULTS.len()]; KINDS.len()],
    from_memory: Histogram,
    from_upstream: Histogram,
    forwarded: [Counter; Outcome::ALL.len()],
    upstream_failing: AtomicBool,
}

impl Metrics {
    /// Makes the registry and what counts in it.
    pub(crate) fn new() -> (Registry, Self) {
        let registry = Registry::new(weft_proto::client::Service::Dns.name(), weft_service::VERSION, FAMILIES);
        let metrics = Self {
            queries: KINDS.map(|kind| RESULTS.map(|result| registry.counter(&QUERIES, &[kind, result]))),
            from_memory: registry.histogram(&DURATION, &["weft"]),
            from_upstream: registry.histogram(&DURATION, &["upstream"]),
            forwarded: Outcome::ALL.map(|(_, result)| registry.counter(&FORWARDED, &[result])),
            upstream_failing: AtomicBool::new(false),
        };
        (registry, metrics)
    }

    /// Counts a query: for which type, if it could be read; what was answered, with records or without; whether weft itself
    /// knew; how long it took.
    pub(crate) fn answered(
        &self,
        kind: Option<RecordType>,
        code: ResponseCode,
        has_records: bool,
        from_memory: bool,
        took: Duration,
    ) {
        let result = match CODES.iter().position(|known| *known == code) {
            Some(0) if !has_records => EMPTY,
            Some(place) => place,
            None => RESULTS.len() - 1,
        };
        let place = TYPES.iter().position(|known| Some(*known) == kind);
        let kind = place.unwrap_or(KINDS.len() - 1);
        self.queries[kind][result].increment(1);
        if from_memory { &self.from_memory } else { &self.from_upstream }.record(took);
    }

    /// Counts what came of a query for the host's resolvers.
    pub(crate) fn forwarded(&self, outcome: Outcome) {
        self.forwarded[outcome as usize].increment(1);
        if outcome != Outcome::Overload {
            self.upstream_failing.store(outcome != Outcome::Answered, Relaxed);
        }
    }
}

/// Looks at what dns knows at each scrape.
pub(crate) struct Collector {
    pub(crate) state: Arc<State>,
    pub(crate) upstream: Arc<Upstream>,
}

#[tonic::async_trait]
impl Collect for Collector {
    async fn collect(&self, sheet: &mut Sheet) {
        let problems = self.state.problems.list();
        sheet.problems(problems.iter().map(|problem| (problem.reason.as_str(), problem.age_seconds as f64)));
        let upstreams = self.upstream.servers().len();
        let is_up = upstreams > 0 && !self.state.metrics.upstream_failing.load(Relaxed);
        sheet.count(&UPSTREAMS, &[], upstreams as u64);
        sheet.set(&UPSTREAM_UP, &[], if is_up { 1.0 } else { 0.0 });
        sheet.count(&IN_FLIGHT, &[], self.upstream.in_flight() as u64);
        let (mut local, mut remote, mut suspended, mut unhealthy) = (0, 0, 0, 0);
        self.state.read(|names| {
            for (origin, _, record) in names.records().iter().filter(|(_, _, record)| !record.names().is_empty()) {
                match origin {
                    Origin::Local => local += 1,
                    Origin::Peer(_) if names.is_suspended(origin) => suspended += 1,
                    Origin::Peer(_) => remote += 1,
                }
                unhealthy += u64::from(!record.is_healthy());
            }
        });
        for (state, count) in [("local", local), ("remote", remote), ("suspended", suspended)] {
            sheet.count(&RECORDS, &[state], count);
        }
        sheet.count(&UNHEALTHY, &[], unhealthy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_in_their_order() {
        for (index, (outcome, _)) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
    }
}
