//! What is attached on this host, published to all peers. The kernel remembers it over restarts.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ipnet::IpNet;
use prost::Message;
use weft_proto::mesh::v1::AttachmentInfo;
use weft_types::{AllowedAddresses, ContainerId, MacAddress};

use crate::{exposed, kernel::ObservedAttachment};

/// A container's attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Whose it is.
    pub container: ContainerId,
    /// Address of `ethwe`.
    pub mac: MacAddress,
    /// Its interface addresses.
    pub addresses: Vec<IpNet>,
    /// What it may give itself.
    pub allowed: AllowedAddresses,
    /// The host's end of the veth pair.
    pub host_interface: String,
}

impl Attachment {
    /// Returns the attachments that the kernel has. One without addresses, or of which it does not tell any, is none:
    /// docker-proxy has it made again.
    #[must_use]
    pub fn observed(observed: Vec<ObservedAttachment>) -> Vec<Self> {
        let attachments = observed.into_iter().map(|observed| {
            let ObservedAttachment { container, mac, addresses, allowed, host_interface, .. } = observed;
            Self { container, mac, addresses, allowed, host_interface }
        });
        attachments.filter(|attachment| !attachment.addresses.is_empty()).collect()
    }
}

/// All attachments of this host.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    by_container: BTreeMap<ContainerId, Attachment>,
    /// Whether the host lets packets in that are from outside of the overlay.
    routing: bool,
}

impl Attachments {
    pub(super) fn new(attachments: Vec<Attachment>) -> Self {
        let by_container = attachments.into_iter().map(|attachment| (attachment.container.clone(), attachment));
        Self { by_container: by_container.collect(), routing: false }
    }

    /// Replaces the host's own addresses.
    pub(super) fn set_host(&mut self, host: Option<Attachment>, routing: bool) {
        self.by_container.remove(&exposed::holder());
        self.by_container.extend(host.map(|host| (exposed::holder(), host)));
        self.routing = routing;
    }

    pub(super) fn list(&self) -> Vec<Attachment> {
        self.by_container.values().cloned().collect()
    }

    /// Remembers an attachment, and tells whether that is news.
    pub(super) fn insert(&mut self, attachment: Attachment) -> bool {
        if self.by_container.get(&attachment.container) == Some(&attachment) {
            return false;
        }
        self.by_container.insert(attachment.container.clone(), attachment);
        true
    }

    /// Forgets addresses, all if none are given, and returns those there were.
    pub(super) fn remove(&mut self, container: &ContainerId, addresses: &[IpNet]) -> Vec<IpNet> {
        let Some(attachment) = self.by_container.get_mut(container) else { return Vec::new() };
        let named = |address: &IpNet| addresses.is_empty() || addresses.iter().any(|a| a.addr() == address.addr());
        let (removed, left): (Vec<IpNet>, Vec<IpNet>) = attachment.addresses.iter().copied().partition(named);
        attachment.addresses = left;
        if attachment.addresses.is_empty() {
            self.by_container.remove(container);
        }
        removed
    }

    /// Returns the subnets that containers of this host are in.
    pub(super) fn subnets(&self) -> BTreeSet<IpNet> {
        self.by_container.values().flat_map(|attachment| &attachment.addresses).map(IpNet::trunc).collect()
    }

    /// Returns key and value of each attachment, as gossip carries them.
    pub(super) fn entries(&self) -> Vec<(Bytes, Bytes)> {
        let entry = |attachment: &Attachment| {
            let info = AttachmentInfo {
                container_id: attachment.container.to_string(),
                mac: Some(attachment.mac.into()),
                addresses: attachment.addresses.iter().map(|address| (*address).into()).collect(),
                routes: self.routing && attachment.container == exposed::holder(),
                allowed: attachment.allowed.iter().map(Into::into).collect(),
            };
            (Bytes::from(info.container_id.clone()), Bytes::from(info.encode_to_vec()))
        };
        self.by_container.values().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container: &str, addresses: &[&str]) -> Attachment {
        let container: ContainerId = container.parse().expect("valid");
        Attachment {
            mac: MacAddress::of_container(&container),
            addresses: addresses.iter().map(|text| text.parse().expect("valid")).collect(),
            allowed: "10.32.0.100".parse().expect("valid"),
            host_interface: format!("vethw{container}"),
            container,
        }
    }

    #[test]
    fn a_restart_keeps_what_the_kernel_has() {
        let mut attachments = Attachments::default();
        let one = attachment("a", &["10.32.0.1/12"]);
        assert!(attachments.insert(one.clone()) && !attachments.insert(one.clone()), "news once");
        let observed = |attachment: Attachment| ObservedAttachment {
            container: attachment.container,
            mac: attachment.mac,
            pid: 1,
            host_interface: attachment.host_interface,
            addresses: attachment.addresses,
            allowed: attachment.allowed,
        };
        let of_kernel = vec![observed(attachment("b", &[])), observed(one.clone())];
        assert_eq!(Attachment::observed(of_kernel), [one]);
    }

    #[test]
    fn the_last_address_takes_the_attachment_along() {
        let mut attachments = Attachments::default();
        attachments.insert(attachment("a", &["10.32.0.1/12", "10.40.0.1/24"]));
        assert_eq!(attachments.subnets().len(), 2);
        let container: ContainerId = "a".parse().expect("valid");
        let first: IpNet = "10.32.0.1/12".parse().expect("valid");
        let alone: IpNet = first.addr().into();
        assert_eq!(attachments.remove(&container, &[alone]), [first], "the prefix length does not matter");
        assert_eq!(attachments.entries().len(), 1);
        assert_eq!(attachments.remove(&container, &[]).len(), 1);
        assert_eq!(attachments.remove(&container, &[]), []);
        assert!(attachments.list().is_empty());
    }
}
