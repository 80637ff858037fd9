//! What a query is answered with.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{
        LowerName, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR},
    },
};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};

use crate::{NameRecord, Names, Origin, Zone};

/// What to do with a query.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Answer with this, with authority.
    Local(Reply),
    /// Ask the host's resolvers: it is none of our names.
    Upstream,
}

/// The parts of an authoritative answer that depend on what is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// `NoError` or `NXDomain`.
    pub code: ResponseCode,
    /// Answers; empty for negative replies.
    pub answers: Vec<Record>,
    /// The zone's SOA record for negative replies.
    pub authority: Vec<Record>,
}

impl Names {
    /// Answers a query of class IN.
    ///
    /// `asked` is the name as it stands in the query: its letter case is repeated in the answers. `seed` decides the order of
    /// answers and nothing else.
    #[must_use]
    pub fn answer(&self, asked: &Name, record_type: RecordType, seed: u64) -> Answer {
        let name = LowerName::new(asked);
        if self.zone().contains(&name) {
            return Answer::Local(self.answer_in_zone(asked, &name, record_type, seed));
        }
        if name.is_localhost() {
            return Answer::Upstream;
        }
        if name.iter().count() == 1 {
            // Names of one label mean containers, and nobody outside has to know them.
            let mut relative = asked.clone();
            relative.set_fqdn(false);
            return Answer::Local(match relative.append_domain(self.zone().apex()) {
                Ok(full) => self.answer_in_zone(asked, &LowerName::new(&full), record_type, seed),
                Err(_) => self.no_such_name(),
            });
        }
        match reverse_address(&name) {
            Some(address) => self.answer_reverse(asked, address, record_type),
            None => Answer::Upstream,
        }
    }

    fn answer_in_zone(&self, asked: &Name, name: &LowerName, record_type: RecordType, seed: u64) -> Reply {
        let zone = self.zone();
        let wants = |candidate| record_type == candidate || record_type == RecordType::ANY;
        if name == zone.apex() {
            let records = [(RecordType::SOA, zone.soa()), (RecordType::NS, zone.ns())];
            return self
                .found(records.into_iter().filter(|(kind, _)| wants(*kind)).map(|(_, record)| record).collect());
        }
        if name == zone.server() {
            let address = IpAddr::from(Zone::server_address());
            return self.found(self.address_records(asked, record_type, [address]));
        }
        let live: Vec<_> = self.live(self.records().named(name)).collect();
        if live.is_empty() {
            // A name without records that has names below it exists (RFC 8020, section 2).
            let exists = zone.server().base_name() == *name || self.live(self.records().below(name)).next().is_some();
            return if exists { self.found(Vec::new()) } else { self.no_such_name() };
        }
        let any_healthy = live.iter().any(|(_, record)| record.is_healthy());
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut near, mut far) = (BTreeSet::new(), BTreeSet::new());
        for (origin, record) in live.iter().filter(|(_, record)| record.is_healthy() || !any_healthy) {
            let is_near = self.is_local_first() && *origin == Origin::Local;
            if is_near { &mut near } else { &mut far }.extend(record.addresses().iter().copied());
        }
        far.retain(|address| !near.contains(address));
        let parts = [near, far].map(|addresses| {
            let mut part = self.address_records(asked, record_type, addresses);
            part.shuffle(&mut random);
            part
        });
        self.found(parts.concat())
    }

    fn answer_reverse(&self, asked: &Name, address: IpAddr, record_type: RecordType) -> Answer {
        let server = (address == IpAddr::from(Zone::server_address())).then(|| self.zone().server().clone());
        let named =
            self.live(self.records().addressed(address)).find_map(|(_, record)| record.names().first().cloned());
        match server.or(named) {
            Some(name) if record_type == RecordType::PTR || record_type == RecordType::ANY => {
                Answer::Local(self.found(vec![self.record(asked, RData::PTR(PTR(Name::from(name))))]))
            }
            Some(_) => Answer::Local(self.found(Vec::new())),
            // Nobody outside knows the overlay's addresses, and asking would only take time.
            None if self.is_overlay_address(address) => Answer::Local(self.no_such_name()),
            None => Answer::Upstream,
        }
    }

    /// Tells whether `address` belongs to the overlay: to its range, or to a /48 that some record's address is in.
    fn is_overlay_address(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.range().contains(&address),
            IpAddr::V6(address) => {
                let first = u128::from(address) >> 80 << 80;
                let last = first | ((1 << 80) - 1);
                let unique_local = address.octets()[0] == 0xfd;
                unique_local
                    && self.records().any_address_within(Ipv6Addr::from(first).into(), Ipv6Addr::from(last).into())
            }
        }
    }

    fn live<'a>(
        &'a self,
        records: impl Iterator<Item = (Origin, &'a NameRecord)> + 'a,
    ) -> impl Iterator<Item = (Origin, &'a NameRecord)> + 'a {
        records.filter(|(origin, _)| !self.is_suspended(*origin))
    }

    fn address_records(
        &self,
        asked: &Name,
        record_type: RecordType,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Vec<Record> {
        let v4 = record_type == RecordType::A || record_type == RecordType::ANY;
        let v6 = record_type == RecordType::AAAA || record_type == RecordType::ANY;
        let data = addresses.into_iter().filter_map(|address| match address {
            IpAddr::V4(address) => v4.then_some(RData::A(A(address))),
            IpAddr::V6(address) => v6.then_some(RData::AAAA(AAAA(address))),
        });
        data.map(|data| self.record(asked, data)).collect()
    }

    fn record(&self, owner: &Name, data: RData) -> Record {
        Record::from_rdata(owner.clone(), self.zone().ttl_seconds(), data)
    }

    fn found(&self, answers: Vec<Record>) -> Reply {
        let authority = if answers.is_empty() { vec![self.zone().soa()] } else { Vec::new() };
        Reply { code: ResponseCode::NoError, answers, authority }
    }

    fn no_such_name(&self) -> Reply {
        Reply { code: ResponseCode::NXDomain, answers: Vec::new(), authority: vec![self.zone().soa()] }
    }
}

/// Returns the address that a whole name under in-addr.arpa or ip6.arpa stands for.
fn reverse_address(name: &LowerName) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests;
