//! What travels between stores: changes of one origin, cut in parts and joined again.

use bytes::Bytes;
use weft_types::PeerName;

use super::{GossipError, Position, check_channel, check_entry, limits};

/// Changes of one origin, or a part of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// Whose entries they are.
    pub origin: PeerName,
    /// How far the receiver knows the origin afterwards.
    pub at: Position,
    /// How far the receiver must know the origin, in the same generation, unless the delta is complete.
    pub base_version: u64,
    /// Whether these are all entries of the origin.
    pub complete: bool,
    /// The entries of this part.
    pub entries: Vec<DeltaEntry>,
    /// Which part it is, from 0.
    pub part: u32,
    /// How many parts there are.
    pub parts: u32,
}

/// One entry of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaEntry {
    /// Its channel.
    pub channel: String,
    /// Its key in the channel.
    pub key: Bytes,
    /// Version of the origin at which it was written.
    pub version: u64,
    /// Absent: deleted.
    pub value: Option<Bytes>,
}

impl DeltaEntry {
    /// Returns what the entry counts towards limits, in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        super::origin::entry_length(&self.channel, &self.key, self.value.as_deref())
    }
}

impl Delta {
    /// Checks what can be checked without a store.
    ///
    /// # Errors
    /// [`GossipError`] names the rule that is broken.
    pub fn check(&self) -> Result<(), GossipError> {
        let contradiction = |problem| Err(GossipError::Contradiction { origin: self.origin, problem });
        if self.parts == 0 || self.parts > limits::PARTS || self.part >= self.parts {
            return contradiction("its part numbers make no sense");
        }
        if self.base_version > self.at.version {
            return contradiction("it begins after its end");
        }
        for entry in &self.entries {
            check_channel(&entry.channel)?;
            check_entry(&entry.key, entry.value.as_deref())?;
            if entry.version > self.at.version || (!self.complete && entry.version <= self.base_version) {
                return contradiction("an entry's version lies outside of it");
            }
        }
        Ok(())
    }

    /// Cuts the delta so that no part exceeds [`limits::PART_LENGTH`] by more than one entry.
    #[must_use]
    pub fn into_parts(self) -> Vec<Self> {
        let mut groups = vec![Vec::new()];
        let mut length = 0;
        for entry in self.entries {
            if length >= limits::PART_LENGTH {
                groups.push(Vec::new());
                length = 0;
            }
            length += entry.length();
            if let Some(group) = groups.last_mut() {
                group.push(entry);
            }
        }
        let parts = groups.len() as u32;
        let cut = |(part, entries)| Self {
            origin: self.origin,
            at: self.at,
            base_version: self.base_version,
            complete: self.complete,
            entries,
            part,
            parts,
        };
        (0..).zip(groups).map(cut).collect()
    }
}

/// Joins the parts of deltas that come over one connection, which carries one delta's parts in order and after one
/// another.
#[derive(Debug, Default)]
pub struct Assembler {
    pending: Option<Delta>,
    length: usize,
}

impl Assembler {
    /// Takes a part, and returns the whole delta when it was the last.
    ///
    /// # Errors
    /// [`GossipError`] if the part does not continue what came before, or the whole is larger than an origin may be.
    pub fn push(&mut self, delta: Delta) -> Result<Option<Delta>, GossipError> {
        let contradiction = |problem| GossipError::Contradiction { origin: delta.origin, problem };
        if delta.part == 0 {
            self.pending = None;
            self.length = 0;
        }
        self.length += delta.entries.iter().map(DeltaEntry::length).sum::<usize>();
        if self.length > limits::ORIGIN_LENGTH {
            self.pending = None;
            return Err(GossipError::OriginTooLarge { origin: delta.origin });
        }
        let parts = delta.parts;
        let whole = match self.pending.take() {
            None if delta.part == 0 => delta,
            None => return Err(contradiction("a part came without those before it")),
            Some(mut pending) => {
                let continues = pending.origin == delta.origin
                    && pending.at == delta.at
                    && pending.base_version == delta.base_version
                    && pending.complete == delta.complete
                    && pending.parts == delta.parts
                    && pending.part + 1 == delta.part;
                if !continues {
                    return Err(contradiction("a part does not continue the one before it"));
                }
                pending.part = delta.part;
                pending.entries.extend(delta.entries);
                pending
            }
        };
        if whole.part + 1 == parts {
            self.length = 0;
            Ok(Some(Delta { part: 0, parts: 1, ..whole }))
        } else {
            self.pending = Some(whole);
            Ok(None)
        }
    }
}
