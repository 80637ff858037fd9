//! The UDP socket that carries sealed datagrams.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::Context as _;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::facility::{Facility, FacilityState};
use crate::socket::set_option;

/// Buffers of the socket, in bytes, where we may ask for more than the system's limit.
const BUFFER: libc::c_int = 8 << 20;

// include/uapi/linux/udp.h
pub(super) const UDP_SEGMENT: libc::c_int = 103;
pub(super) const UDP_GRO: libc::c_int = 104;

/// The socket, and what the kernel can do for it.
#[derive(Debug)]
pub(super) struct DataSocket {
    socket: Socket,
    ipv6: bool,
    facilities: BTreeMap<Facility, FacilityState>,
}

impl DataSocket {
    /// Opens the socket on `address`, or on all addresses of both families, or of IPv4 where there is no IPv6.
    pub(super) fn open(address: Option<IpAddr>, port: u16, masked: &BTreeSet<Facility>) -> anyhow::Result<Self> {
        let mut facilities = BTreeMap::new();
        let (socket, ipv6) = match address {
            Some(address) => {
                let state =
                    if masked.contains(&Facility::DualStack) { FacilityState::Masked } else { FacilityState::Missing };
                facilities.insert(Facility::DualStack, state);
                (bind(SocketAddr::new(address, port))?, address.is_ipv6())
            }
            None if masked.contains(&Facility::DualStack) => {
                facilities.insert(Facility::DualStack, FacilityState::Masked);
                (bind((Ipv4Addr::UNSPECIFIED, port).into())?, false)
            }
            None => match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
                Ok(socket) => {
                    facilities.insert(Facility::DualStack, FacilityState::InUse);
                    (socket, true)
                }
                // No IPv6 in this kernel, or switched off; a port in use shows again below.
                Err(_) => {
                    facilities.insert(Facility::DualStack, FacilityState::Missing);
                    (bind((Ipv4Addr::UNSPECIFIED, port).into())?, false)
                }
            },
        };
        for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            // Without the privilege the plain option gives as much as the system allows.
            if set_option(&socket, libc::SOL_SOCKET, option, BUFFER).is_err() {
                let plain = if option == libc::SO_RCVBUFFORCE { libc::SO_RCVBUF } else { libc::SO_SNDBUF };
                set_option(&socket, libc::SOL_SOCKET, plain, BUFFER).context("failed to enlarge the UDP buffers")?;
            }
        }
        prove_sizes_ourselves(&socket, ipv6).context("failed to send datagrams whole or not at all")?;
        for (facility, option, value) in
            [(Facility::BatchedSend, UDP_SEGMENT, 0), (Facility::CoalescedReceive, UDP_GRO, 1)]
        {
            let state = if masked.contains(&facility) {
                FacilityState::Masked
            } else if set_option(&socket, libc::SOL_UDP, option, value).is_ok() {
                FacilityState::InUse
            } else {
                FacilityState::Missing
            };
            facilities.insert(facility, state);
        }
        Ok(Self { socket, ipv6, facilities })
    }

    pub(super) fn facilities(&self) -> &BTreeMap<Facility, FacilityState> {
        &self.facilities
    }

    pub(super) fn uses(&self, facility: Facility) -> bool {
        self.facilities.get(&facility) == Some(&FacilityState::InUse)
    }

    /// Returns the address that the socket is bound to.
    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Returns an endpoint in the form that this socket sends to, unless it cannot reach that family.
    pub(super) fn address_of(&self, endpoint: SocketAddr) -> Option<SockAddr> {
        match (endpoint, self.ipv6) {
            (SocketAddr::V4(v4), true) => Some(SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()).into()),
            (SocketAddr::V6(_), false) => None,
            (SocketAddr::V4(_) | SocketAddr::V6(_), _) => Some(endpoint.into()),
        }
    }
}

impl AsFd for DataSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<Socket> {
    let open = || -> io::Result<Socket> {
        let socket =
            Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    };
    open().with_context(|| format!("failed to bind UDP {address}"))
}

/// Has datagrams sent whole or not at all, whatever the kernel believes of the way: paths find out what passes by themselves
/// (`IP_PMTUDISC_PROBE`, ip(7)).
fn prove_sizes_ourselves(socket: &Socket, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    }
    // A socket of both families sends to mapped addresses as IPv4 says; one of IPv6 alone has no such option to set.
    let outcome = set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
    if ipv6 { Ok(()) } else { outcome }
}
