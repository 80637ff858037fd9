//! Why frames and datagrams are dropped.

use std::fmt;

/// Why a frame or a datagram went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// No peer is known to have the destination.
    UnknownDestination,
    /// The peer has no session yet.
    NoSession,
    /// No path to the peer answers probes.
    NoPath,
    /// The frame is larger than the mesh's MTU allows.
    Oversized,
    /// The frame or its offload header makes no sense.
    MalformedFrame,
    /// A frame that must not leave its host: bridge protocols, the anycast resolver's ARP.
    LinkLocal,
    /// A container pretended to be a router or a DHCP server.
    ForbiddenService,
    /// The frame carries a VLAN tag, behind which addresses would hide.
    VlanTagged,
    /// Too much waited to be sealed; the flow that had the most lost its oldest frame.
    QueueFull,
    /// The socket's send queue was full.
    SocketFull,
    /// The kernel refused a datagram for another reason.
    SendFailed,
    /// The TAP's queue was full, or the device is down.
    TapFull,
    /// The datagram is none of ours, or of a later version.
    MalformedDatagram,
    /// The datagram names no session that we have.
    UnknownSession,
    /// The datagram was forged or damaged.
    NotAuthentic,
    /// The datagram was received before, or is too old to tell.
    Replayed,
    /// The sealed content is of a kind that we do not know.
    UnknownContent,
    /// The source MAC does not live at the peer that sealed the frame.
    SpoofedSource,
    /// An address that the sender claims does not live where the frame comes from.
    SpoofedAddress,
    /// Sender and receiver have no subnet in common.
    ForeignSubnet,
    /// The session sealed as much as its keys allow.
    SessionExhausted,
    /// The control connection that carries datagrams had too many waiting.
    StreamFull,
    /// No way is known to the peer that a relayed datagram is for.
    NoRoute,
    /// A relayed datagram has crossed as many links as it may.
    HopLimit,
    /// A relayed datagram came from somewhere else than a neighbour.
    NotNeighbour,
    /// It was larger than its way carries: a frame whose sender was told so, or a probe that found it out.
    TooBig,
    /// A part of a frame contradicts others, or the others did not come or were too many.
    BadFragment,
}

impl DropReason {
    /// Every reason, in the order of the discriminants.
    pub const ALL: [Self; 27] = [
        Self::UnknownDestination,
        Self::NoSession,
        Self::NoPath,
        Self::Oversized,
        Self::MalformedFrame,
        Self::LinkLocal,
        Self::ForbiddenService,
        Self::VlanTagged,
        Self::QueueFull,
        Self::SocketFull,
        Self::SendFailed,
        Self::TapFull,
        Self::MalformedDatagram,
        Self::UnknownSession,
        Self::NotAuthentic,
        Self::Replayed,
        Self::UnknownContent,
        Self::SpoofedSource,
        Self::SpoofedAddress,
        Self::ForeignSubnet,
        Self::SessionExhausted,
        Self::StreamFull,
        Self::NoRoute,
        Self::HopLimit,
        Self::NotNeighbour,
        Self::TooBig,
        Self::BadFragment,
    ];

    /// Returns the label of metrics and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownDestination => "unknown_destination",
            Self::NoSession => "no_session",
            Self::NoPath => "no_path",
            Self::Oversized => "oversized",
            Self::MalformedFrame => "malformed_frame",
            Self::LinkLocal => "link_local",
            Self::ForbiddenService => "forbidden_service",
            Self::VlanTagged => "vlan_tagged",
            Self::QueueFull => "queue_full",
            Self::SocketFull => "socket_full",
            Self::SendFailed => "send_failed",
            Self::TapFull => "tap_full",
            Self::MalformedDatagram => "malformed_datagram",
            Self::UnknownSession => "unknown_session",
            Self::NotAuthentic => "not_authentic",
            Self::Replayed => "replayed",
            Self::UnknownContent => "unknown_content",
            Self::SpoofedSource => "spoofed_source",
            Self::SpoofedAddress => "spoofed_address",
            Self::ForeignSubnet => "foreign_subnet",
            Self::SessionExhausted => "session_exhausted",
            Self::StreamFull => "stream_full",
            Self::NoRoute => "no_route",
            Self::HopLimit => "hop_limit",
            Self::NotNeighbour => "not_neighbour",
            Self::TooBig => "too_big",
            Self::BadFragment => "bad_fragment",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
