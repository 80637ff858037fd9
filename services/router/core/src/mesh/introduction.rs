//! What both sides of a new connection say about themselves, inside the handshake's last messages.

use std::net::SocketAddr;

use ipnet::{IpNet, Ipv4Net};
use weft_proto::{convert::InvalidMessage, mesh::v1 as pb};

use super::message::{endpoint, printable};
use crate::trusted::MAX_SUBNETS;

/// Longest printed name and nickname, in bytes.
pub const MAX_NAME_LENGTH: usize = 255;

/// Id of an address ring.
pub type RingId = [u8; 16];

/// Who speaks, as told to the other side of a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// Oldest protocol version that the speaker knows.
    pub protocol_min: u32,
    /// Newest protocol version that the speaker knows.
    pub protocol_max: u32,
    /// Printed form of the peer's name, unique in the mesh.
    pub name: String,
    /// The host's name.
    pub nickname: String,
    /// Random at each start.
    pub instance: u64,
    /// Random for each connection; the exclusive or of both sides' orders duplicates.
    pub connection: u64,
    /// Range that addresses come from; equal in the whole mesh.
    pub address_range: Ipv4Net,
    /// Id of the speaker's ring, if it has one.
    pub ring_id: Option<RingId>,
    /// UDP port that takes datagrams; 0 for the port of the control listener.
    pub data_port: u16,
    /// TCP port that takes control connections; 0 where none does.
    pub listen_port: u16,
    /// Where the speaker sees the listener.
    pub observed: Option<SocketAddr>,
    /// Subnets that the speaker trusts with data that is not sealed.
    pub trusted_subnets: Vec<IpNet>,
}

impl From<&Introduction> for pb::Introduction {
    fn from(introduction: &Introduction) -> Self {
        Self {
            protocol_min: introduction.protocol_min,
            protocol_max: introduction.protocol_max,
            name: introduction.name.clone(),
            nickname: introduction.nickname.clone(),
            instance: introduction.instance.to_be_bytes().to_vec(),
            connection: introduction.connection.to_be_bytes().to_vec(),
            address_range: Some(introduction.address_range.into()),
            ring_id: introduction.ring_id.map(|id| id.to_vec()).unwrap_or_default(),
            data_port: introduction.data_port.into(),
            observed: introduction.observed.map(Into::into),
            listen_port: introduction.listen_port.into(),
            trusted_subnets: introduction.trusted_subnets.iter().copied().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Introduction> for Introduction {
    type Error = InvalidMessage;

    fn try_from(introduction: pb::Introduction) -> Result<Self, Self::Error> {
        let name = introduction.name;
        if name.is_empty() || name.len() > MAX_NAME_LENGTH || printable(&name, MAX_NAME_LENGTH) != name {
            return Err(InvalidMessage::invalid("Introduction.name", "a name has 1 to 255 printable bytes"));
        }
        let ring_id = match introduction.ring_id.as_slice() {
            [] => None,
            id => Some(id.try_into().map_err(|_| InvalidMessage::invalid("Introduction.ring_id", "it has 16 bytes"))?),
        };
        let address_range =
            introduction.address_range.as_ref().ok_or(InvalidMessage::missing("Introduction.address_range"))?;
        Ok(Self {
            protocol_min: introduction.protocol_min,
            protocol_max: introduction.protocol_max,
            name,
            nickname: printable(&introduction.nickname, MAX_NAME_LENGTH),
            instance: number("Introduction.instance", &introduction.instance)?,
            connection: number("Introduction.connection", &introduction.connection)?,
            address_range: address_range.try_into()?,
            ring_id,
            data_port: port("Introduction.data_port", introduction.data_port)?,
            listen_port: port("Introduction.listen_port", introduction.listen_port)?,
            observed: endpoint(introduction.observed.as_ref()),
            // What cannot be read trusts nobody.
            trusted_subnets: introduction
                .trusted_subnets
                .iter()
                .take(MAX_SUBNETS)
                .filter_map(|subnet| IpNet::try_from(subnet).ok())
                .collect(),
        })
    }
}

fn number(field: &'static str, bytes: &[u8]) -> Result<u64, InvalidMessage> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| InvalidMessage::invalid(field, "it has 8 bytes"))
}

fn port(field: &'static str, port: u32) -> Result<u16, InvalidMessage> {
    u16::try_from(port).map_err(|error| InvalidMessage::invalid(field, error))
}
