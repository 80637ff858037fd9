//! Types that every part of weft shares: names of peers and containers, addresses and ranges, and where the Docker API is.
//!
//! Nothing here performs IO or knows protobuf; conversions to the contracts' messages live in `weft-proto`.

#![forbid(unsafe_code)]

mod address_range;
mod allowed_addresses;
mod api_address;
mod container_id;
mod dual_stack;
mod loopback_address;
mod mac_address;
mod peer_name;

pub use address_range::{AddressRange, InvalidRange};
pub use allowed_addresses::{AllowedAddresses, InvalidAllowedAddresses};
pub use api_address::{ApiAddress, InvalidApiAddress};
pub use container_id::{ContainerId, InvalidContainerId};
pub use dual_stack::{InvalidUlaPrefix, UlaPrefix};
pub use loopback_address::{InvalidLoopbackAddress, LoopbackAddress};
pub use mac_address::{InvalidMacAddress, MacAddress};
pub use peer_name::{InvalidPeerName, PeerName, hex};
