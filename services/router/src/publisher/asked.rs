//! Datagrams with the address of the host that they were sent to, from which the answer has to come: a client takes it from nobody
//! else, and a host with several addresses would choose another.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
        setsockopt, sockopt,
    },
};
use socket2::Socket;
use tokio::{io::Interest, net::UdpSocket};

/// Who asked, and at which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked {
    /// Where the answer goes.
    pub(super) client: SocketAddr,
    /// Where it comes from; `None` where that is the socket's own address.
    pub(super) at: Option<IpAddr>,
}

/// Has the kernel tell of each datagram where it was sent to, if the socket is not bound to one address.
///
/// # Errors
/// What the kernel says.
pub(super) fn tell(socket: &Socket, bound: Option<IpAddr>) -> io::Result<()> {
    if bound.is_some() {
        return Ok(());
    }
    if socket.local_addr()?.is_ipv6() {
        // Of IPv4 too, in the form of IPv6.
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// Waits for a datagram. Cancel safe.
pub(super) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Asked)> {
    let receive = || -> io::Result<(usize, Asked)> {
        let mut space = cmsg_space!(libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
        let client = received.address.as_ref().and_then(address).ok_or(io::ErrorKind::InvalidData)?;
        let at = received.cmsgs()?.find_map(|message| {
            if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
                Some(IpAddr::from(u32::from_be(info.ipi_addr.s_addr).to_be_bytes()))
            } else if let ControlMessageOwned::Ipv6PacketInfo(info) = message {
                Some(IpAddr::from(info.ipi6_addr.s6_addr))
            } else {
                None
            }
        });
        Ok((received.bytes, Asked { client, at }))
    };
    socket.async_io(Interest::READABLE, receive).await
}

/// Sends an answer.
///
/// # Errors
/// What the kernel says.
pub(super) async fn answer(socket: &UdpSocket, content: &[u8], asked: Asked) -> io::Result<()> {
    let client = SockaddrStorage::from(asked.client);
    let parts = [IoSlice::new(content)];
    let send = |messages: &[ControlMessage<'_>]| -> io::Result<()> {
        Ok(sendmsg(socket.as_raw_fd(), &parts, messages, MsgFlags::empty(), Some(&client)).map(drop)?)
    };
    let from = || match asked.at {
        Some(IpAddr::V4(at)) => {
            let own = libc::in_addr { s_addr: u32::from(at).to_be() };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: own, ipi_addr: own };
            send(&[ControlMessage::Ipv4PacketInfo(&info)])
        }
        Some(IpAddr::V6(at)) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: at.octets() }, ipi6_ifindex: 0 };
            send(&[ControlMessage::Ipv6PacketInfo(&info)])
        }
        None => send(&[]),
    };
    match socket.async_io(Interest::WRITABLE, from).await {
        // What was sent to many has an address that nobody answers from.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            socket.async_io(Interest::WRITABLE, || send(&[])).await
        }
        outcome => outcome,
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4: &SockaddrIn| SocketAddr::V4((*v4).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6: &SockaddrIn6| SocketAddr::V6((*v6).into())))
}
