//! Facilities of the kernel that make the packet path fast, each probed for and each dispensable.

use std::{fmt, str::FromStr};

/// A facility of the kernel that the data plane uses where it is present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Facility {
    /// Frames cross the TAP with a virtio header, so that checksums may stay undone (`IFF_VNET_HDR`).
    VirtioHeader,
    /// The TAP hands over TCP frames of up to 64 KiB (`TUN_F_TSO4`, `TUN_F_TSO6`).
    TcpSegmentation,
    /// The TAP hands over and takes batches of UDP datagrams (`TUN_F_USO4`, `TUN_F_USO6`, Linux 6.2).
    UdpSegmentation,
    /// One send carries many datagrams (`UDP_SEGMENT`, Linux 4.18).
    BatchedSend,
    /// One receive returns many datagrams (`UDP_GRO`, Linux 5.0).
    CoalescedReceive,
    /// One socket serves IPv6 and IPv4.
    DualStack,
}

impl Facility {
    /// Every facility.
    pub const ALL: [Self; 6] = [
        Self::VirtioHeader,
        Self::TcpSegmentation,
        Self::UdpSegmentation,
        Self::BatchedSend,
        Self::CoalescedReceive,
        Self::DualStack,
    ];

    /// Returns the name in options, metrics and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VirtioHeader => "virtio-header",
            Self::TcpSegmentation => "tcp-segmentation",
            Self::UdpSegmentation => "udp-segmentation",
            Self::BatchedSend => "batched-send",
            Self::CoalescedReceive => "coalesced-receive",
            Self::DualStack => "dual-stack",
        }
    }
}

impl fmt::Display for Facility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The input names no facility.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no facility of the packet path: choose among virtio-header, tcp-segmentation, udp-segmentation, batched-send, coalesced-receive and dual-stack"
)]
pub struct UnknownFacility(pub String);

impl FromStr for Facility {
    type Err = UnknownFacility;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|facility| facility.name() == text).ok_or_else(|| UnknownFacility(text.to_owned()))
    }
}

/// Whether a facility serves the packet path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FacilityState {
    /// It does.
    InUse,
    /// The kernel lacks it.
    Missing,
    /// The configuration forbids it.
    Masked,
}
