//! How others reach the driver.

use bytes::Bytes;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use weft_router_core::{
    gossip::Entry,
    handshake::Passwords,
    mesh::{PeerIdentity, PeerView, PublishError, SendError},
    target::Target,
};
use weft_types::{ContainerId, PeerName};

use super::{Attachment, Located, Status, Update};
use crate::{exposed::Exposed, kernel::Exposure};

/// What the driver is asked for.
#[derive(Debug)]
pub enum Command {
    /// Returns everything there is to show.
    Status(oneshot::Sender<Status>),
    /// Adds targets.
    AddTargets {
        /// The targets.
        targets: Vec<Target>,
        /// Whether others are removed.
        replace: bool,
        /// Answered when they are on disk.
        reply: oneshot::Sender<anyhow::Result<()>>,
    },
    /// Removes targets.
    RemoveTargets {
        /// As they were given.
        texts: Vec<String>,
        /// Those that were none, when the rest is on disk.
        reply: oneshot::Sender<anyhow::Result<Vec<String>>>,
    },
    /// Has the mesh let peers in no more.
    Revoke {
        /// Printed names, nicknames or keys.
        names: Vec<String>,
        /// Answered when it is on disk, or with why not.
        reply: oneshot::Sender<anyhow::Result<Revoked>>,
    },
    /// Goes on with other passwords; connections stay.
    ChangePassword {
        /// As the operator gave them.
        given: Passwords,
        /// Whether anything changed, or why it does not.
        reply: oneshot::Sender<anyhow::Result<bool>>,
    },
    /// Publishes entries of a service.
    Publish {
        /// The channel.
        channel: String,
        /// Whether these are all.
        snapshot: bool,
        /// What changes.
        entries: Vec<Entry>,
        /// Answered when done.
        reply: oneshot::Sender<Result<(), PublishError>>,
    },
    /// Subscribes to a channel.
    Subscribe {
        /// The channel.
        channel: String,
        /// Gives updates, the snapshot first. It ends when it is not emptied fast enough.
        reply: oneshot::Sender<mpsc::Receiver<Update>>,
    },
    /// Sends a message to the subscribers of a channel at a peer.
    Send {
        /// The channel.
        channel: String,
        /// The peer.
        destination: PeerName,
        /// Opaque here.
        payload: Bytes,
        /// Answered when the message has left.
        reply: oneshot::Sender<Result<(), SendError>>,
    },
    /// Remembers an attachment, for a restart and for all peers.
    Attach {
        /// As the kernel has it now.
        attachment: Attachment,
        /// Answered when it is published and on disk, or the disk refused it, which is tried again.
        reply: oneshot::Sender<()>,
    },
    /// Forgets addresses of an attachment.
    Detach {
        /// Whose.
        container: ContainerId,
        /// Which; all if empty.
        addresses: Vec<IpNet>,
        /// Those that it had, when the rest is published and on disk, or the disk refused it, which is tried again.
        reply: oneshot::Sender<Vec<IpNet>>,
    },
    /// Returns the host's own addresses.
    Exposed(oneshot::Sender<Exposed>),
    /// Remembers the host's own addresses, for a restart and for all peers.
    SetExposed {
        /// All of them.
        exposed: Exposed,
        /// What of them the kernel has.
        in_effect: Vec<Exposure>,
        /// Answered when it is on disk, or with why not.
        reply: oneshot::Sender<anyhow::Result<()>>,
    },
    /// Has all peers hear of addresses that the host has for services, beside those that it is exposed with.
    SetHeld {
        /// All of them.
        addresses: Vec<IpNet>,
        /// Answered when it is published.
        reply: oneshot::Sender<()>,
    },
    /// Lists the attachments of this host.
    Attachments(oneshot::Sender<Vec<Attachment>>),
    /// Lists the attachments of all peers.
    Locations(oneshot::Sender<Vec<Located>>),
}

/// Peers that are let in no more.
#[derive(Debug)]
pub struct Revoked {
    /// Who.
    pub peers: Vec<PeerIdentity>,
    /// What is left to do, as a sentence; may be empty.
    pub next: String,
}

/// Reaches the driver.
#[derive(Debug, Clone)]
pub struct DriverHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) peers: watch::Receiver<Vec<PeerView>>,
}

/// The driver has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the router is stopping")]
pub struct Stopping;

impl DriverHandle {
    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// [`Stopping`] if nobody answers any more.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    /// Watches all peers known.
    #[must_use]
    pub fn peers(&self) -> watch::Receiver<Vec<PeerView>> {
        self.peers.clone()
    }
}
