//! Frames as a container with NET_RAW sends and sees them.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{FromRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    libc,
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// All stations.
pub(crate) const BROADCAST: Mac = [0xff; 6];
/// Where IPv6 speaks to all nodes.
pub(crate) const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];
/// For local experiments (IEEE 802-2014, section 9.2.4): nobody looks into it.
pub(crate) const UNKNOWN_KIND: u16 = 0x88b5;
/// What begins the tag by which a frame is told apart.
const TAG: [u8; 6] = [0xa7, 0x7a, 0xc4, 0x5e, 0xed, 0x01];

/// A socket for whole frames of one interface.
pub(crate) struct Raw(File);

impl Raw {
    /// Opens one on `ethwe` of the namespace that the thread is in.
    #[expect(unsafe_code, reason = "packet sockets have no safe constructor")]
    pub(crate) fn open() -> io::Result<Self> {
        let kind = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the arguments are numbers, the name is a string with its end; the descriptor is this function's own.
        let (index, socket) = unsafe {
            let descriptor = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, kind.into());
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            (libc::if_nametoindex(c"ethwe".as_ptr()), OwnedFd::from_raw_fd(descriptor))
        };
        // SAFETY: all of it is numbers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = kind;
        address.sll_ifindex = index as i32;
        let file = File::from(socket);
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: the address lives longer than the call, and its size is the one named.
        let bound = unsafe { libc::bind(descriptor, (&raw const address).cast(), size_of_val(&address) as u32) };
        if index == 0 || bound != 0 { Err(io::Error::last_os_error()) } else { Ok(Self(file)) }
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write_all(frame)
    }

    /// Returns the numbers of the tagged frames that come before the one with the number `last`, or within `limit`. What comes
    /// beside is left out, and so is what other processors deliver after that.
    pub(crate) fn seen(&mut self, last: u16, limit: Duration) -> io::Result<BTreeSet<u16>> {
        let limit = TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&self.0, sockopt::ReceiveTimeout, &limit)?;
        let (mut seen, mut frame) = (BTreeSet::new(), vec![0; 64 << 10]);
        while !seen.contains(&last) {
            match self.0.read(&mut frame) {
                Ok(length) => seen.extend(number(&frame[..length])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(seen)
    }
}

/// Returns the tag with a number.
pub(crate) fn tag(number: u16) -> Vec<u8> {
    [&TAG[..], &number.to_be_bytes()].concat()
}

/// Returns the number in the tag of a frame.
fn number(frame: &[u8]) -> Option<u16> {
    let at = frame.windows(TAG.len()).position(|bytes| bytes == TAG)? + TAG.len();
    frame.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Returns a frame, padded to the length that Ethernet asks for.
pub(crate) fn frame(to: Mac, from: Mac, kind: u16, content: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &kind.to_be_bytes(), content].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Returns what ARP says: 1 asks, 2 answers. The tag follows, where the padding is.
pub(crate) fn arp(operation: u8, mac: Mac, sender: Ipv4Addr, target: Ipv4Addr, number: u16) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &mac, &sender.octets(), &[0; 6], &target.octets(), &tag(number)].concat()
}

/// Returns a datagram of UDP over IPv4, with the tag in it.
pub(crate) fn udp4(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), number: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0];
    header.extend([from.octets(), to.octets()].concat());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(udp(ports, number));
    header
}

/// Returns a datagram of UDP over IPv6, with the tag in it.
pub(crate) fn udp6(from: Ipv6Addr, to: Ipv6Addr, ports: (u16, u16), number: u16) -> Vec<u8> {
    ipv6(from, to, 17, &udp(ports, number))
}

fn udp((from, to): (u16, u16), number: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 16, 0, 0], &tag(number)].concat()
}

/// Returns a message of ICMPv6, with the tag as an option that nobody knows.
pub(crate) fn icmp6(from: Ipv6Addr, to: Ipv6Addr, message: &[u8], number: u16) -> Vec<u8> {
    // Of twice eight bytes.
    let option = [&[253, 2][..], &tag(number), &[0; 6]].concat();
    ipv6(from, to, 58, &[message, &option].concat())
}

/// Returns a neighbour advertisement: solicited, to override.
pub(crate) fn neighbour_advertisement(from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr, number: u16) -> Vec<u8> {
    icmp6(from, to, &[&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &target.octets()].concat(), number)
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], next, 255];
    [&head[..], &from.octets(), &to.octets(), content].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}
