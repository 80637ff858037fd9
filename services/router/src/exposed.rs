//! Which addresses the host has on the overlay, over restarts.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use weft_types::{AllowedAddresses, ContainerId, MacAddress};

use crate::{driver::Attachment, kernel::Exposure};

/// Holder of the host's own addresses.
const HOLDER: &str = "weft:expose";

/// What an address of the host is exposed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Its twin, if it has one.
    pub twin: Option<Ipv6Net>,
    /// See [`Exposure::masquerade`].
    pub masquerade: bool,
    /// Names that mean it, as dns was asked for them.
    pub names: BTreeSet<String>,
}

/// All addresses of the host on the overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposed {
    /// By interface address.
    pub addresses: BTreeMap<Ipv4Net, Terms>,
}

impl Exposed {
    /// Adds an address, or changes its terms: the names that it has stay.
    pub fn add(&mut self, address: Ipv4Net, mut terms: Terms) {
        let known = self.addresses.remove(&address);
        terms.names.extend(known.into_iter().flat_map(|known| known.names));
        self.addresses.insert(address, terms);
    }

    /// Returns what the kernel has to be told.
    #[must_use]
    pub fn exposures(&self) -> Vec<Exposure> {
        let of = |(address, terms): (&Ipv4Net, &Terms)| {
            let masquerade = terms.masquerade;
            let addresses = [Some(IpNet::V4(*address)), terms.twin.map(IpNet::V6)];
            addresses.into_iter().flatten().map(move |address| Exposure { address, masquerade }).collect::<Vec<_>>()
        };
        self.addresses.iter().flat_map(of).collect()
    }
}

/// Returns who holds the host's own addresses.
///
/// # Panics
/// Never: the text is an id.
#[must_use]
pub fn holder() -> ContainerId {
    HOLDER.parse().expect("the text is an id")
}

/// Returns the host as all peers hear of it: as they hear of containers; nothing where it has no address.
#[must_use]
pub fn attachment(bridge: &str, mac: MacAddress, addresses: Vec<IpNet>) -> Option<Attachment> {
    let host_interface = bridge.to_owned();
    let attachment =
        Attachment { container: holder(), mac, addresses, allowed: AllowedAddresses::default(), host_interface };
    (!attachment.addresses.is_empty()).then_some(attachment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(masquerade: bool, names: &[&str]) -> Terms {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Terms { twin: Some("fd12::1/108".parse().expect("valid")), masquerade, names }
    }

    #[test]
    fn terms_change_and_names_stay() {
        let address = "10.32.0.1/12".parse().expect("valid");
        let mut exposed = Exposed::default();
        exposed.add(address, terms(true, &["a"]));
        exposed.add(address, terms(false, &["b"]));
        assert_eq!(exposed.addresses, BTreeMap::from([(address, terms(false, &["a", "b"]))]));
        let exposures = exposed.exposures();
        assert!(exposures.len() == 2 && exposures.iter().all(|exposure| !exposure.masquerade), "{exposures:?}");
        let text = serde_json::to_string(&exposed).expect("encoded");
        assert_eq!(serde_json::from_str::<Exposed>(&text).expect("read"), exposed);
    }

    #[test]
    fn a_hidden_host_is_no_attachment() {
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        assert_eq!(attachment("weft", mac, Vec::new()), None);
    }
}
