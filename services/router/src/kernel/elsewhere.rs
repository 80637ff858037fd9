//! Hears what somebody takes away inside containers' networks, without being there: the kernel tells of every network namespace
//! that has a number in ours, as those of attached containers have.

use std::{
    collections::BTreeSet,
    io::IoSliceMut,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use anyhow::Context;
use netlink_sys::{Socket, constants::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, NetlinkAddr, recvmsg, setsockopt, sockopt},
};

use super::{
    news::{INDEX, messages, word},
    rtnetlink::{borrow, open_notifications},
};

/// Room for one datagram of the kernel.
const DATAGRAM: usize = 64 * 1024;

/// Room for news that wait, in bytes: many containers may start or end at once.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Losses that are remembered one by one.
const MOST_LOSSES: usize = 4096;

/// Linux groups of news (linux/rtnetlink.h): RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR.
const GROUPS: [u32; 3] = [1, 5, 9];

/// An interface in another network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interface {
    /// Our number for the namespace.
    pub(super) namespace: i32,
    /// The kernel's number for the interface there.
    pub(super) index: u32,
}

/// Interfaces that were switched off or lost an address.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// These.
    pub(super) known: BTreeSet<Interface>,
    /// And perhaps others: news were lost.
    pub(super) unknown: bool,
}

impl Losses {
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && !self.unknown
    }

    pub(super) fn add(&mut self, interface: Interface) {
        if self.known.len() < MOST_LOSSES {
            self.known.insert(interface);
        } else {
            self.unknown = true;
        }
    }
}

/// The socket on which the kernel tells.
#[derive(Debug)]
pub(super) struct Notifications {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Notifications {
    /// Takes CAP_NET_BROADCAST.
    pub(super) fn open() -> anyhow::Result<Self> {
        let socket = open_notifications(NETLINK_ROUTE, &GROUPS)?;
        socket
            .set_listen_all_namespaces(true)
            .context("the kernel does not tell about other network namespaces (it takes NET_BROADCAST)")?;
        // With less room there may be gaps, which are noticed.
        let _ = setsockopt(&borrow(&socket), sockopt::RcvBufForce, &RECEIVE_BUFFER);
        Ok(Self { socket, buffer: vec![0; DATAGRAM] })
    }

    /// Reads all that waits.
    pub(super) fn drain(&mut self, losses: &mut Losses) {
        let mut control = nix::cmsg_space!(i32);
        loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let received = recvmsg::<NetlinkAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags);
            let (length, namespace) = match &received {
                Ok(message) => {
                    (message.bytes, message.cmsgs().ok().and_then(|mut all| all.find_map(|one| number(&one))))
                }
                Err(Errno::ENOBUFS) => {
                    losses.unknown = true;
                    continue;
                }
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            // News of our own namespace have no number.
            if let (Some(namespace), Some(messages)) = (namespace, self.buffer.get(..length)) {
                for index in lost_interfaces(messages) {
                    losses.add(Interface { namespace, index });
                }
            }
        }
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.socket)
    }
}

/// Returns our number for the namespace that a message is about (netlink(7), `NETLINK_LISTEN_ALL_NSID`).
fn number(control: &ControlMessageOwned) -> Option<i32> {
    let ControlMessageOwned::Unknown(message) = control else { return None };
    let header = message.cmsg_header;
    let about = header.cmsg_level == libc::SOL_NETLINK && header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID;
    message.data_bytes.first_chunk().filter(|_| about).map(|bytes| i32::from_ne_bytes(*bytes))
}

/// Returns the interfaces that lost something, by what a datagram of route netlink says (rtnetlink(7)).
fn lost_interfaces(datagram: &[u8]) -> impl Iterator<Item = u32> {
    messages(datagram).filter_map(|(kind, body)| loss(kind, body))
}

/// Reads `struct ifinfomsg` or `struct ifaddrmsg`.
fn loss(kind: u16, body: &[u8]) -> Option<u32> {
    const RTM_NEWLINK: u16 = 16;
    const RTM_DELADDR: u16 = 21;
    const IFF_UP: u32 = 1;
    let index = word(body, INDEX)?;
    let lost = match kind {
        RTM_DELADDR => true,
        RTM_NEWLINK => {
            let (flags, changed) = (word(body, 8)?, word(body, 12)?);
            // Everything changed where it was just made.
            flags & IFF_UP == 0 && changed & IFF_UP != 0 && changed != u32::MAX
        }
        _ => false,
    };
    lost.then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, words: &[u32]) -> Vec<u8> {
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut message = u32::try_from(16 + body.len()).expect("short").to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(16, 0);
        message.extend(body);
        message
    }

    #[test]
    fn an_interface_loses_when_it_is_switched_off_or_an_address_goes() {
        let (up, down) = (1, 0);
        let news = [
            message(16, &[0, 1, down, u32::MAX]),
            message(16, &[0, 2, down, 1]),
            message(16, &[0, 3, up, 1]),
            message(16, &[0, 4, down, 0]),
            message(20, &[0, 5]),
            message(21, &[0, 6]),
        ];
        assert_eq!(lost_interfaces(&news.concat()).collect::<Vec<_>>(), [2, 6]);
    }

    #[test]
    fn what_is_cut_is_left_out() {
        let whole = [message(21, &[0, 6]), message(21, &[0, 7])].concat();
        for length in 0..whole.len() {
            assert!(lost_interfaces(&whole[..length]).count() < 2);
        }
        assert_eq!(lost_interfaces(&[0; 64]).count(), 0);
        assert_eq!(lost_interfaces(&[255; 64]).count(), 0);
    }

    #[test]
    fn more_losses_than_can_be_remembered_are_known_to_be() {
        let mut losses = Losses::default();
        assert!(losses.is_empty());
        for index in 0..=u32::try_from(MOST_LOSSES).expect("small") {
            losses.add(Interface { namespace: 0, index });
        }
        assert!(losses.unknown);
        assert_eq!(losses.known.len(), MOST_LOSSES);
    }
}
