//! Packet filter rules over nfnetlink.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, constants::NETLINK_NETFILTER};

use super::rtnetlink;

/// Hears that rules of the namespace changed.
#[derive(Debug)]
pub(super) struct Notifications {
    socket: Socket,
}

impl Notifications {
    pub(super) fn open() -> anyhow::Result<Self> {
        // NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
        rtnetlink::open_notifications(NETLINK_NETFILTER, &[7]).map(|socket| Self { socket })
    }

    /// Reads all that waits and tells whether there was anything.
    pub(super) fn drain(&self) -> bool {
        rtnetlink::drain(&self.socket)
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        rtnetlink::borrow(&self.socket)
    }
}
