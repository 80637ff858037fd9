//! The name server's port: a namespace of its own on the bridge.

use std::net::{TcpListener, UdpSocket};

use weft_types::MacAddress;

/// Address of the name server's interface. The same on every host and after each restart, so that containers' caches stay
/// right; frames from it never leave the host.
pub(super) const MAC: MacAddress = MacAddress::new([0x02, 0x77, 0x65, 0x66, 0x74, 0x35]);

/// The name server's sockets, bound to the anycast address in the namespace of its port; both do not block.
#[derive(Debug)]
pub struct DnsSockets {
    /// For datagrams.
    pub udp: UdpSocket,
    /// For connections.
    pub tcp: TcpListener,
}
