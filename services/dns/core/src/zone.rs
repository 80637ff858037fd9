//! The zone: which names are ours, and the records that every zone has.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::{
    LowerName, Name, RData, Record,
    rdata::{NS, SOA},
};

use crate::NameRecord;

/// Most names that one container may have.
pub const MAX_NAMES: usize = 64;

/// Most addresses that one container's names may have.
pub const MAX_ADDRESSES: usize = 64;

/// The link-local anycast address at which every container asks.
const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 83, 53);

/// The domain under which all containers have their names.
#[derive(Debug, Clone)]
pub struct Zone {
    apex: LowerName,
    /// The zone's one name server, which is this process whoever asks.
    server: LowerName,
    ttl_seconds: u32,
}

/// The text is not a domain that containers can have names under.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot be the domain of the containers: {reason}, as in \"weft.internal\"")]
pub struct InvalidDomain {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The text cannot be the name of a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It is absolute and not below the zone.
    #[error("the name {name:?} lies outside of the zone {zone}: give a name below it, or a relative one as in \"db\"")]
    OutsideZone {
        /// What was given.
        name: String,
        /// The zone, with its trailing dot.
        zone: String,
    },
    /// It is not a host name.
    #[error("the name {name:?} is not a host name: {reason}")]
    NotAHostName {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It names the zone or its server.
    #[error("the name {name:?} is the zone's own: choose another name")]
    Reserved {
        /// What was given.
        name: String,
    },
    /// More names than a container may have.
    #[error("a container may have at most {MAX_NAMES} names, not {count}")]
    TooManyNames {
        /// How many were given.
        count: usize,
    },
    /// More addresses than a container may have.
    #[error("a container's names may have at most {MAX_ADDRESSES} addresses, not {count}")]
    TooManyAddresses {
        /// How many were given.
        count: usize,
    },
}

impl Zone {
    /// Makes the zone of `domain`; letter case and a trailing dot do not matter.
    ///
    /// # Errors
    /// [`InvalidDomain`] if it is no host name, or leaves no room for a label of 63 characters.
    pub fn new(domain: &str, ttl_seconds: u32) -> Result<Self, InvalidDomain> {
        let invalid = |reason| InvalidDomain { text: domain.to_owned(), reason };
        let apex = parse(domain.strip_suffix('.').unwrap_or(domain)).map_err(invalid)?;
        if apex.len() > 190 {
            return Err(invalid("it has to leave room for the containers' names: use at most 190 characters"));
        }
        let server = Name::from_ascii("ns.dns").and_then(|name| name.append_domain(&apex));
        let server = server.map_err(|_| invalid("it is too long"))?;
        Ok(Self { apex: LowerName::new(&apex), server: LowerName::new(&server), ttl_seconds })
    }

    /// Returns the zone's name, absolute and lower case.
    #[must_use]
    pub const fn apex(&self) -> &LowerName {
        &self.apex
    }

    /// Returns the name of the zone's server.
    #[must_use]
    pub const fn server(&self) -> &LowerName {
        &self.server
    }

    /// Returns the address of the zone's server, the same on every host.
    #[must_use]
    pub const fn server_address() -> Ipv4Addr {
        SERVER_ADDRESS
    }

    /// Returns how long an answer may be kept, in seconds.
    #[must_use]
    pub const fn ttl_seconds(&self) -> u32 {
        self.ttl_seconds
    }

    /// Tells whether `name` is the zone's or lies below it.
    #[must_use]
    pub fn contains(&self, name: &LowerName) -> bool {
        self.apex.zone_of(name)
    }

    /// Returns the name below the zone that `text` means: relative ("db"), or absolute with or without a trailing dot.
    ///
    /// # Errors
    /// [`InvalidName`] if there is none.
    pub fn name(&self, text: &str) -> Result<LowerName, InvalidName> {
        let not_a_host_name = |reason| InvalidName::NotAHostName { name: text.to_owned(), reason };
        let absolute = text.ends_with('.');
        let name = parse(text.strip_suffix('.').unwrap_or(text)).map_err(not_a_host_name)?;
        let name = if self.apex.zone_of(&LowerName::new(&name)) {
            name
        } else if absolute {
            return Err(InvalidName::OutsideZone { name: text.to_owned(), zone: self.apex.to_string() });
        } else {
            let below = "with the zone it is longer than 253 characters";
            let mut relative = name;
            relative.set_fqdn(false);
            let name = relative.append_domain(&self.apex).map_err(|_| not_a_host_name(below))?;
            if name.len() > MAX_WIRE_LENGTH {
                return Err(not_a_host_name(below));
            }
            name
        };
        let name = LowerName::new(&name);
        if name == self.apex || name == self.server {
            return Err(InvalidName::Reserved { name: text.to_owned() });
        }
        Ok(name)
    }

    /// Returns what stands before the zone in a name, without a dot at the end; `None` if the name is not below the zone.
    #[must_use]
    pub fn relative(&self, name: &LowerName) -> Option<String> {
        let relative = name.to_string().strip_suffix(&self.apex.to_string())?.strip_suffix('.')?.to_owned();
        (!relative.is_empty()).then_some(relative)
    }

    /// Makes the record that a registration on this host asks for. Names and addresses given twice count once.
    ///
    /// # Errors
    /// [`InvalidName`] naming the first name that cannot be, or the limit that is exceeded.
    pub fn record(&self, names: &[String], addresses: &[IpAddr], healthy: bool) -> Result<NameRecord, InvalidName> {
        if names.len() > MAX_NAMES {
            return Err(InvalidName::TooManyNames { count: names.len() });
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(InvalidName::TooManyAddresses { count: addresses.len() });
        }
        let names = names.iter().map(|name| self.name(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(NameRecord::new(names, addresses.iter().copied(), healthy))
    }

    /// Makes the record that a peer published, leaving out what this host cannot accept: a peer decides about names below
    /// the zone and about nothing else.
    #[must_use]
    pub fn foreign_record(&self, names: &[String], addresses: &[IpAddr], healthy: bool) -> NameRecord {
        let names = names.iter().take(MAX_NAMES).filter(|name| name.ends_with('.'));
        let names = names.filter_map(|name| self.name(name).ok()).collect();
        NameRecord::new(names, addresses.iter().copied().take(MAX_ADDRESSES), healthy)
    }

    /// Returns the SOA record, as it accompanies negative answers (RFC 2308, section 3).
    #[must_use]
    pub fn soa(&self) -> Record {
        let contact = Name::from_ascii("hostmaster").and_then(|name| name.append_domain(&self.apex));
        let contact = contact.unwrap_or_else(|_| Name::from(&self.apex));
        // Nobody transfers the zone, so the serial says nothing; the last field is the time to keep a negative answer.
        let soa = SOA::new(Name::from(&self.server), contact, 1, 3600, 600, 86_400, self.ttl_seconds);
        Record::from_rdata(Name::from(&self.apex), self.ttl_seconds, RData::SOA(soa))
    }

    /// Returns the NS record.
    #[must_use]
    pub fn ns(&self) -> Record {
        Record::from_rdata(Name::from(&self.apex), self.ttl_seconds, RData::NS(NS(Name::from(&self.server))))
    }
}

/// Longest name, in octets of the wire form without the root's (RFC 1035, section 2.3.4).
const MAX_WIRE_LENGTH: usize = 254;

/// Reads a host name without trailing dot and makes it absolute.
///
/// Underscores are allowed beside RFC 1123's letters, digits and hyphens: Docker and Compose use them in names.
fn parse(text: &str) -> Result<Name, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > 253 {
        return Err("it is longer than 253 characters");
    }
    for label in text.split('.') {
        if label.is_empty() {
            return Err("it has an empty label");
        }
        if label.len() > 63 {
            return Err("a label is longer than 63 characters");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err("labels consist of letters, digits, hyphens and underscores");
        }
    }
    let mut name = Name::from_ascii(text).map_err(|_| "it cannot be written in a DNS message")?;
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        Zone::new("Weft.Internal", 1).expect("valid")
    }

    #[test]
    fn names_are_relative_or_below_the_zone() {
        for (text, name) in [
            ("db", "db.weft.internal."),
            ("My_DB-1", "my_db-1.weft.internal."),
            ("a.sub", "a.sub.weft.internal."),
            ("db.example.org", "db.example.org.weft.internal."),
            ("db.weft.internal", "db.weft.internal."),
            ("DB.WEFT.Internal.", "db.weft.internal."),
        ] {
            assert_eq!(zone().name(text).map(|name| name.to_string()), Ok(name.to_owned()), "{text}");
        }
    }

    #[test]
    fn names_have_a_part_of_their_own() {
        for (name, relative) in [
            ("db.weft.internal.", Some("db")),
            ("a.sub.weft.internal.", Some("a.sub")),
            ("weft.internal.weft.internal.", Some("weft.internal")),
            ("weft.internal.", None),
            ("db.notweft.internal.", None),
            (".", None),
        ] {
            let name = LowerName::from(Name::from_ascii(name).expect("valid"));
            assert_eq!(zone().relative(&name).as_deref(), relative, "{name}");
        }
    }

    #[test]
    fn other_names_are_refused_with_a_reason() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(60)].join(".");
        for (text, part) in [
            ("db.example.org.", "outside of the zone weft.internal."),
            ("", "it is empty"),
            (".", "it is empty"),
            ("a..b", "an empty label"),
            ("a b", "labels consist of"),
            ("db\\.x", "labels consist of"),
            ("é", "labels consist of"),
            ("*", "labels consist of"),
            (&long_label, "longer than 63"),
            (&long_name, "longer than 253"),
            ("weft.internal", "the zone's own"),
            ("ns.dns", "the zone's own"),
        ] {
            let error = zone().name(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn domains_are_checked() {
        for domain in ["", ".", "a..b", "weft internal", &"a.".repeat(120)] {
            assert!(Zone::new(domain, 1).is_err(), "{domain}");
        }
        assert_eq!(Zone::new("weft.internal.", 1).expect("valid").apex(), zone().apex());
    }

    #[test]
    fn peers_decide_about_names_below_the_zone_only() {
        let names = ["db.weft.internal.", "example.org.", "weft.internal.", "x", ""].map(str::to_owned);
        let record = zone().foreign_record(&names, &[], true);
        assert_eq!(record.names().iter().map(ToString::to_string).collect::<Vec<_>>(), ["db.weft.internal."]);
    }
}
