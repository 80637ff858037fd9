//! What is attached on this host: remembered over restarts, published to all peers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ipnet::IpNet;
use prost::Message;
use serde::{Deserialize, Serialize};
use weft_proto::mesh::v1::AttachmentInfo;
use weft_types::{ContainerId, MacAddress};

use super::ATTACHMENTS_FILE;
use crate::{kernel::ObservedAttachment, store::Store};

/// A container's attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Whose it is.
    pub container: ContainerId,
    /// Address of `ethwe`.
    pub mac: MacAddress,
    /// Its interface addresses.
    pub addresses: Vec<IpNet>,
    /// The host's end of the veth pair.
    pub host_interface: String,
}

/// An attachment as the file has it.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    container: String,
    addresses: Vec<IpNet>,
    host_interface: String,
}

impl Attachment {
    /// Returns what the file has of the attachments that the kernel has too, and what the kernel alone has. The kernel is
    /// right about all that it tells.
    ///
    /// # Errors
    /// If the file is there and cannot be used.
    pub fn load(store: &Store, observed: &[ObservedAttachment]) -> anyhow::Result<Vec<Self>> {
        let kept: Vec<Kept> = store.load(ATTACHMENTS_FILE)?;
        let attachments = observed.iter().map(|observed| {
            let known = kept.iter().find(|kept| kept.container == observed.container.as_str());
            let addresses = match known {
                Some(kept) if observed.addresses.is_empty() => kept.addresses.clone(),
                Some(_) | None => observed.addresses.clone(),
            };
            Self {
                container: observed.container.clone(),
                mac: observed.mac,
                addresses,
                host_interface: observed.host_interface.clone(),
            }
        });
        Ok(attachments.filter(|attachment| !attachment.addresses.is_empty()).collect())
    }
}

/// All attachments of this host.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    by_container: BTreeMap<ContainerId, Attachment>,
    /// The file lacks something, since it could not be written.
    unsaved: bool,
}

impl Attachments {
    pub(super) fn new(attachments: Vec<Attachment>) -> Self {
        let by_container = attachments.into_iter().map(|attachment| (attachment.container.clone(), attachment));
        Self { by_container: by_container.collect(), unsaved: false }
    }

    pub(super) fn list(&self) -> Vec<Attachment> {
        self.by_container.values().cloned().collect()
    }

    /// Remembers an attachment, in memory in any case.
    pub(super) fn insert(&mut self, attachment: Attachment, store: &Store) -> anyhow::Result<()> {
        if self.by_container.get(&attachment.container) == Some(&attachment) && !self.unsaved {
            return Ok(());
        }
        self.by_container.insert(attachment.container.clone(), attachment);
        self.save(store)
    }

    /// Forgets addresses, all if none are given, and returns those there were.
    pub(super) fn remove(
        &mut self,
        container: &ContainerId,
        addresses: &[IpNet],
        store: &Store,
    ) -> anyhow::Result<Vec<IpNet>> {
        let Some(attachment) = self.by_container.get_mut(container) else {
            if self.unsaved {
                self.save(store)?;
            }
            return Ok(Vec::new());
        };
        let (removed, left): (Vec<IpNet>, Vec<IpNet>) =
            attachment.addresses.iter().partition(|address| addresses.is_empty() || addresses.contains(address));
        attachment.addresses = left;
        if attachment.addresses.is_empty() {
            self.by_container.remove(container);
        }
        self.save(store)?;
        Ok(removed)
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
            };
            (Bytes::from(info.container_id.clone()), Bytes::from(info.encode_to_vec()))
        };
        self.by_container.values().map(entry).collect()
    }

    fn save(&mut self, store: &Store) -> anyhow::Result<()> {
        self.unsaved = true;
        let kept: Vec<Kept> = self
            .by_container
            .values()
            .map(|attachment| Kept {
                container: attachment.container.to_string(),
                addresses: attachment.addresses.clone(),
                host_interface: attachment.host_interface.clone(),
            })
            .collect();
        store.save(ATTACHMENTS_FILE, &kept)?;
        self.unsaved = false;
        Ok(())
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
            host_interface: format!("vethw{container}"),
            container,
        }
    }

    #[test]
    fn a_restart_keeps_what_the_kernel_still_has() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(folder.path()).expect("opened");
        let mut attachments = Attachments::default();
        for attachment in [attachment("a", &["10.32.0.1/12"]), attachment("b", &["10.32.0.2/12"])] {
            attachments.insert(attachment, &store).expect("kept");
        }
        let observed = |attachment: Attachment| ObservedAttachment {
            container: attachment.container,
            mac: attachment.mac,
            pid: 1,
            host_interface: attachment.host_interface,
            addresses: attachment.addresses,
        };
        let of_kernel = [observed(attachment("a", &[])), observed(attachment("c", &["10.32.0.3/12"]))];
        let loaded = Attachment::load(&store, &of_kernel).expect("readable");
        assert_eq!(loaded, [attachment("a", &["10.32.0.1/12"]), attachment("c", &["10.32.0.3/12"])]);
    }

    #[test]
    fn what_could_not_be_written_is_written_when_it_is_asked_for_again() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(folder.path()).expect("opened");
        let mut attachments = Attachments::default();
        // A folder in the place of the file that is written to.
        let obstacle = store.path(&format!(".{ATTACHMENTS_FILE}.new"));
        std::fs::create_dir(&obstacle).expect("made");
        let one = attachment("a", &["10.32.0.1/12"]);
        for _ in 0..2 {
            let error = format!("{:#}", attachments.insert(one.clone(), &store).expect_err("not kept"));
            assert!(error.contains(ATTACHMENTS_FILE), "{error}");
        }
        std::fs::remove_dir(&obstacle).expect("removed");
        attachments.insert(one.clone(), &store).expect("kept");
        let kept: Vec<Kept> = store.load(ATTACHMENTS_FILE).expect("readable");
        assert_eq!(kept.len(), 1);
        std::fs::remove_file(store.path(ATTACHMENTS_FILE)).expect("removed");
        std::fs::create_dir(&obstacle).expect("made");
        attachments.remove(&one.container, &[], &store).expect_err("not kept");
        std::fs::remove_dir(&obstacle).expect("removed");
        attachments.remove(&one.container, &[], &store).expect("kept");
        assert!(store.path(ATTACHMENTS_FILE).exists());
    }

    #[test]
    fn the_last_address_takes_the_attachment_along() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(folder.path()).expect("opened");
        let mut attachments = Attachments::default();
        attachments.insert(attachment("a", &["10.32.0.1/12", "10.40.0.1/24"]), &store).expect("kept");
        assert_eq!(attachments.subnets().len(), 2);
        let container: ContainerId = "a".parse().expect("valid");
        let first: IpNet = "10.32.0.1/12".parse().expect("valid");
        assert_eq!(attachments.remove(&container, &[first], &store).expect("kept"), [first]);
        assert_eq!(attachments.entries().len(), 1);
        assert_eq!(attachments.remove(&container, &[], &store).expect("kept").len(), 1);
        assert_eq!(attachments.remove(&container, &[], &store).expect("idempotent"), []);
        assert!(attachments.list().is_empty());
    }
}
