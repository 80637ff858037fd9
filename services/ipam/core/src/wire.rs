//! The messages of `weft.ipam.v1` and what they mean here. Bytes from outside that make no sense are errors.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use prost::Message as _;
use weft_proto::ipam::v1 as pb;
use weft_types::{AddressRange, ContainerId, PeerName, UlaPrefix};

use crate::{
    election::{Number, Proposal, Votes},
    free_report::{FreeReport, FreeSpan},
    ring::{Fact, Owner, RingId, RingInfo},
};

/// The bytes are not what the contract says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {0} of the ring channel")]
pub struct Malformed(&'static str);

/// What an origin publishes under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Info(RingInfo),
    Run(AddressRange, Fact),
    Free(FreeReport),
    Ballot(Ballot),
    External(Ipv4Addr, ContainerId),
}

/// An origin's part in the creation of a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ballot {
    pub(crate) voters: u32,
    pub(crate) store: u64,
    pub(crate) votes: Votes,
    pub(crate) founder: bool,
}

/// A message between two peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) ring: RingId,
    pub(crate) request: u64,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Request { wanted: AddressRange, owner: Owner },
    Grant(Vec<(AddressRange, Fact)>),
    Denial { holder: Option<ContainerId> },
}

pub(crate) const INFO_KEY: &[u8] = b"ring";
pub(crate) const FREE_KEY: &[u8] = b"free";
pub(crate) const BALLOT_KEY: &[u8] = b"ballot";

pub(crate) fn run_key(start: u32) -> Vec<u8> {
    format!("run/{start:08x}").into_bytes()
}

pub(crate) fn external_key(address: Ipv4Addr) -> Vec<u8> {
    format!("external/{address}").into_bytes()
}

impl Item {
    pub(crate) fn key(&self) -> Vec<u8> {
        match self {
            Self::Info(_) => INFO_KEY.to_vec(),
            Self::Run(range, _) => run_key(range.start()),
            Self::Free(_) => FREE_KEY.to_vec(),
            Self::Ballot(_) => BALLOT_KEY.to_vec(),
            Self::External(address, _) => external_key(*address),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Info(info) => info_to(info).encode_to_vec(),
            Self::Run(range, fact) => run_to(*range, *fact).encode_to_vec(),
            Self::Free(report) => free_to(report).encode_to_vec(),
            Self::Ballot(ballot) => ballot_to(ballot).encode_to_vec(),
            Self::External(_, container) => pb::ExternalClaim { container_id: container.to_string() }.encode_to_vec(),
        }
    }

    /// Reads an entry. `None` stands for a key that a later version has added.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Option<Self>, Malformed> {
        let item = match key {
            INFO_KEY => Self::Info(parse(value, "RingInfo", info_from)?),
            FREE_KEY => Self::Free(parse(value, "FreeReport", free_from)?),
            BALLOT_KEY => Self::Ballot(parse(value, "Ballot", ballot_from)?),
            _ if key.starts_with(b"run/") => {
                let (range, fact) = parse(value, "Run", run_from)?;
                if key != run_key(range.start()) {
                    return Err(Malformed("Run"));
                }
                Self::Run(range, fact)
            }
            _ => match key.strip_prefix(b"external/") {
                None => return Ok(None),
                Some(address) => {
                    let malformed = Malformed("ExternalClaim");
                    let address = std::str::from_utf8(address).ok().and_then(|text| text.parse().ok());
                    let claim =
                        parse(value, "ExternalClaim", |claim: pb::ExternalClaim| claim.container_id.parse().ok())?;
                    Self::External(address.ok_or(malformed)?, claim)
                }
            },
        };
        Ok(Some(item))
    }
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let kind = match &self.body {
            Body::Request { wanted, owner } => pb::ring_message::Kind::Request(pb::SpaceRequest {
                start: wanted.start(),
                end: wanted.end(),
                owner: Some(owner_to(*owner)),
            }),
            Body::Grant(runs) => pb::ring_message::Kind::Grant(pb::SpaceGrant {
                runs: runs.iter().map(|(range, fact)| run_to(*range, *fact)).collect(),
            }),
            Body::Denial { holder } => pb::ring_message::Kind::Denial(pb::SpaceDenial {
                container_id: holder.as_ref().map(ToString::to_string).unwrap_or_default(),
            }),
        };
        let message = pb::RingMessage { ring_id: self.ring.0.to_vec(), request_id: self.request, kind: Some(kind) };
        message.encode_to_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        parse(bytes, "RingMessage", |message: pb::RingMessage| {
            let body = match message.kind? {
                pb::ring_message::Kind::Request(request) => Body::Request {
                    wanted: AddressRange::new(request.start, request.end).ok()?,
                    owner: owner_from(&request.owner?)?,
                },
                pb::ring_message::Kind::Grant(grant) => {
                    Body::Grant(grant.runs.into_iter().map(run_from).collect::<Option<_>>()?)
                }
                pb::ring_message::Kind::Denial(denial) => Body::Denial { holder: denial.container_id.parse().ok() },
            };
            Some(Self { ring: RingId(message.ring_id.try_into().ok()?), request: message.request_id, body })
        })
    }
}

fn parse<M: prost::Message + Default, T>(
    bytes: &[u8],
    what: &'static str,
    read: impl FnOnce(M) -> Option<T>,
) -> Result<T, Malformed> {
    M::decode(bytes).ok().and_then(read).ok_or(Malformed(what))
}

fn info_to(info: &RingInfo) -> pb::RingInfo {
    pb::RingInfo {
        ring_id: info.id.0.to_vec(),
        range_start: info.range.network().into(),
        range_length: info.range.prefix_len().into(),
        ula_prefix: info.ula.octets().to_vec(),
    }
}

fn info_from(info: pb::RingInfo) -> Option<RingInfo> {
    let length = u8::try_from(info.range_length).ok()?;
    let range = Ipv4Net::new(info.range_start.into(), length).ok().filter(|range| range.addr() == range.network())?;
    let ula = UlaPrefix::try_from(info.ula_prefix.as_slice()).ok()?;
    Some(RingInfo { id: RingId(info.ring_id.try_into().ok()?), range, ula })
}

fn owner_to(owner: Owner) -> pb::Owner {
    pb::Owner { peer: owner.peer.as_bytes().to_vec(), store: owner.store }
}

fn owner_from(owner: &pb::Owner) -> Option<Owner> {
    Some(Owner { peer: PeerName::try_from(owner.peer.as_slice()).ok()?, store: owner.store })
}

fn run_to(range: AddressRange, fact: Fact) -> pb::Run {
    pb::Run {
        start: range.start(),
        end: range.end(),
        owner: Some(owner_to(fact.owner)),
        epoch: fact.epoch,
        version: fact.version,
    }
}

/// Versions near the end of their numbers are refused: nobody gets there by counting, and the next one has to exist.
fn run_from(run: pb::Run) -> Option<(AddressRange, Fact)> {
    if run.epoch >= u32::MAX / 2 || run.version >= u64::MAX / 2 {
        return None;
    }
    let fact = Fact { epoch: run.epoch, version: run.version, owner: owner_from(&run.owner?)? };
    Some((AddressRange::new(run.start, run.end).ok()?, fact))
}

fn free_to(report: &FreeReport) -> pb::FreeReport {
    let spans = report.spans.iter().map(|span| pb::FreeSpan {
        start: span.range.start(),
        end: span.range.end(),
        free: span.free,
    });
    pb::FreeReport { version: report.version, store: report.store, spans: spans.collect() }
}

fn free_from(report: pb::FreeReport) -> Option<FreeReport> {
    let spans = report.spans.into_iter().map(|span| {
        let range = AddressRange::new(span.start, span.end).ok()?;
        Some(FreeSpan { range, free: span.free.min(range.size()) })
    });
    Some(FreeReport { version: report.version, store: report.store, spans: spans.collect::<Option<_>>()? })
}

fn number_to(number: Number) -> pb::ProposalNumber {
    pb::ProposalNumber { round: number.round, peer: number.peer.as_bytes().to_vec() }
}

fn number_from(number: &pb::ProposalNumber) -> Option<Number> {
    if number.round >= u64::MAX / 2 {
        return None;
    }
    Some(Number { round: number.round, peer: PeerName::try_from(number.peer.as_slice()).ok()? })
}

fn ballot_to(ballot: &Ballot) -> pb::Ballot {
    pb::Ballot {
        voters: ballot.voters,
        store: ballot.store,
        promised: ballot.votes.promised.map(number_to),
        accepted: ballot.votes.accepted.as_ref().map(|(number, proposal)| pb::AcceptedProposal {
            number: Some(number_to(*number)),
            ring: Some(info_to(&proposal.info)),
            owners: proposal.owners.iter().map(|owner| owner_to(*owner)).collect(),
        }),
        founder: ballot.founder,
    }
}

fn ballot_from(ballot: pb::Ballot) -> Option<Ballot> {
    let promised = match &ballot.promised {
        None => None,
        Some(number) => Some(number_from(number)?),
    };
    let accepted = match ballot.accepted {
        None => None,
        Some(accepted) => {
            let owners = accepted.owners.iter().map(owner_from).collect::<Option<Vec<_>>>()?;
            if owners.is_empty() {
                return None;
            }
            let proposal = Proposal { info: info_from(accepted.ring?)?, owners };
            Some((number_from(&accepted.number?)?, proposal))
        }
    };
    let votes = Votes { promised, accepted };
    Some(Ballot { voters: ballot.voters, store: ballot.store, votes, founder: ballot.founder })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items_round_trip() {
        let owner = Owner { peer: PeerName::from_public_key([7; 32]), store: 9 };
        let range = AddressRange::new(0x0a20_0000, 0x0a30_0000).expect("valid");
        let fact = Fact { epoch: 1, version: 2, owner };
        let info = RingInfo::from_bytes("10.32.0.0/12".parse().expect("valid"), [3; 32]);
        let number = Number { round: 4, peer: owner.peer };
        let votes = Votes { promised: Some(number), accepted: Some((number, Proposal { info, owners: vec![owner] })) };
        let container: ContainerId = "c1".parse().expect("valid");
        let items = [
            Item::Info(info),
            Item::Run(range, fact),
            Item::Free(FreeReport { version: 5, store: 9, spans: vec![FreeSpan { range, free: 6 }] }),
            Item::Ballot(Ballot { voters: 3, store: 9, votes, founder: false }),
            Item::External(Ipv4Addr::new(192, 0, 2, 1), container.clone()),
        ];
        for item in items {
            assert_eq!(Item::decode(&item.key(), &item.encode()), Ok(Some(item)));
        }
        for body in [
            Body::Request { wanted: range, owner },
            Body::Grant(vec![(range, fact)]),
            Body::Denial { holder: Some(container) },
        ] {
            let message = Message { ring: info.id, request: 8, body };
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    proptest! {
        #[test]
        fn bytes_from_outside_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), key in 0_usize..5) {
            let keys: [&[u8]; 5] = [INFO_KEY, FREE_KEY, BALLOT_KEY, b"run/0a200000", b"external/1.2.3.4"];
            let _ = Item::decode(keys[key], &bytes);
            let _ = Message::decode(&bytes);
        }
    }
}
