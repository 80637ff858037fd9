//! Decides for dns: which names there are, who has them, and what a query is answered with.
//!
//! [`Names`] is the state machine: registrations of this host come in as commands, everybody else's records as gossip, and
//! [`Names::answer`] says what a container hears. Sockets, upstream resolvers, gossip streams and clocks are the shell's.

#![forbid(unsafe_code)]

mod answer;
mod by_hand;
mod names;
mod records;
mod zone;

pub use answer::{Answer, Reply};
pub use by_hand::{Given, Holder, Needs, nobody};
pub use names::{MAX_RECORDS_PER_ORIGIN, Names, Peer, Publication, RecordView, RegisterError, Snapshot};
pub use records::{Change, NameRecord, Origin, Records};
pub use zone::{InvalidDomain, InvalidName, MAX_ADDRESSES, MAX_NAMES, Zone};
