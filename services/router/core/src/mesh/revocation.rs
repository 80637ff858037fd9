//! Keys that are let in no more, and passwords that let nobody new in.
//!
//! Every peer publishes all revocations that it knows under its own name, keeps them on disk, and takes over those of others:
//! so one that was away hears of all from whomever it meets first, and none depends on who made it. The set only grows, and
//! is the same everywhere in the end, whatever the order: revocations by a peer count as far as somebody took them over who was
//! not revoked, and of two peers that revoke each other both are out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use prost::Message as _;
use weft_proto::mesh::v1 as pb;
use weft_types::PeerName;

use super::{
    Event, GoodbyeReason, Introduced, Mesh, MeshConfig, PeerIdentity, Problem, RevokeError,
    introduction::MAX_NAME_LENGTH,
    message::{peer, printable},
};
use crate::{gossip::Entry, handshake::PasswordMark};

/// Channel with a [`Revocation`] for each key that the origin lets in no more.
pub const REVOCATIONS_CHANNEL: &str = "revocations";

/// Revocations that there may be. Every peer publishes all of them.
pub const MAX_REVOCATIONS: usize = 256;

/// Marks of passwords that one revocation names.
const MAX_MARKS: usize = 16;

/// Keys that are remembered as members of the mesh.
pub const MAX_KNOWN_PEERS: usize = 4096;

/// Names that one sentence has.
const NAMED: usize = 3;

/// A key that is let in no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The key.
    pub peer: PeerName,
    /// Who revoked it; of several the lowest.
    pub by: PeerName,
    /// Printed form of the revoked peer's name.
    pub name: String,
    /// What its host was called.
    pub nickname: String,
    /// Passwords that were in force then: the revoked host may know them.
    pub marks: BTreeSet<PasswordMark>,
}

impl Revocation {
    fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let message = pb::Revocation::decode(value).ok()?;
        if message.password_marks.len() > MAX_MARKS {
            return None;
        }
        let marks = message.password_marks.iter().map(|mark| u16::try_from(*mark).map(PasswordMark));
        Some(Self {
            peer: PeerName::try_from(key).ok()?,
            by: peer("Revocation.by", message.by.as_ref()).ok()?,
            name: printable(&message.name, MAX_NAME_LENGTH),
            nickname: printable(&message.nickname, MAX_NAME_LENGTH),
            marks: marks.collect::<Result<_, _>>().ok()?,
        })
    }

    fn entry(&self) -> Entry {
        let message = pb::Revocation {
            by: Some(self.by.into()),
            name: self.name.clone(),
            nickname: self.nickname.clone(),
            password_marks: self.marks.iter().map(|mark| mark.0.into()).collect(),
        };
        let key = bytes::Bytes::copy_from_slice(self.peer.as_bytes());
        Entry { key, value: Some(message.encode_to_vec().into()) }
    }

    /// Joins two revocations of one key, the same whichever comes first.
    fn join(&mut self, other: Self) {
        let mut marks = std::mem::take(&mut self.marks);
        marks.extend(&other.marks);
        if (other.by, &other.name, &other.nickname) < (self.by, &self.name, &self.nickname) {
            *self = other;
        }
        self.marks = marks.into_iter().take(MAX_MARKS).collect();
    }

    fn identity(&self) -> PeerIdentity {
        PeerIdentity { peer: self.peer, name: self.name.clone(), nickname: self.nickname.clone() }
    }
}

/// That others let the local peer in no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Who said so. It counts as long as that one is not out itself.
    pub by: PeerName,
    /// What it said.
    pub sentence: String,
}

/// Who may come in.
#[derive(Debug)]
pub(super) struct Admission {
    revocations: BTreeMap<PeerName, Revocation>,
    /// Members, now or before.
    known: BTreeSet<PeerName>,
    told: Option<Told>,
    /// Since when all others have the new password, while there is an old one.
    old_unused: Option<Instant>,
}

impl Admission {
    pub(super) fn new(config: &MeshConfig) -> Self {
        let revocations = config.revocations.iter().map(|revocation| (revocation.peer, revocation.clone()));
        let (known, told) = (config.known_peers.clone(), config.told.clone());
        Self { revocations: revocations.collect(), known, told, old_unused: None }
    }

    pub(super) fn revoked(&self) -> impl Iterator<Item = PeerName> {
        self.revocations.keys().copied()
    }

    /// Tells whether a password was in force when a key was revoked.
    fn is_spent(&self, mark: PasswordMark) -> bool {
        self.revocations.values().any(|revocation| revocation.marks.contains(&mark))
    }
}

/// What the operator asks for.
impl Mesh {
    /// Has the whole mesh let a peer in no more: by its printed name, its nickname if nobody else has it, or its whole key in
    /// hexadecimal. To be persisted, by [`Event::RevocationsChanged`].
    ///
    /// # Errors
    /// [`RevokeError`]; nothing is changed then.
    pub fn revoke(&mut self, names: &[String], now: Instant) -> Result<Vec<PeerIdentity>, RevokeError> {
        if self.admission.told.is_some() {
            return Err(RevokeError::Revoked);
        }
        let identities = names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>, _>>()?;
        let new: BTreeSet<PeerName> =
            identities.iter().map(|identity| identity.peer).filter(|peer| !self.is_revoked(*peer)).collect();
        if self.admission.revocations.len() + new.len() > MAX_REVOCATIONS {
            return Err(RevokeError::TooMany);
        }
        for PeerIdentity { peer, name, nickname } in identities.clone() {
            let mut marks: BTreeSet<PasswordMark> = self.config.password_marks.iter().copied().collect();
            // Also what others have: the lost host may, while the password is changed.
            let others = self.facts.get(&peer).into_iter().chain(self.facts.values());
            for mark in others.flat_map(|facts| &facts.password_marks) {
                if marks.len() < MAX_MARKS {
                    marks.insert(*mark);
                }
            }
            self.adopt(Revocation { peer, by: self.config.local, name, nickname, marks }, now);
        }
        Ok(identities)
    }

    /// Takes over that the local peer's passwords are others now, as [`MeshConfig::password_marks`]. Connections stay.
    pub fn set_password_marks(&mut self, marks: Vec<PasswordMark>, now: Instant) {
        if self.config.password_marks != marks {
            self.config.password_marks = marks;
            self.admission.old_unused = None;
            self.publish_own_facts(now);
        }
    }

    /// Returns what is left to do after a revocation, as a sentence.
    #[must_use]
    pub fn after_revocation(&self) -> String {
        match self.config.password_marks.first() {
            None => {
                "the mesh has no password, so that the host can come back with another key: set WEFT_PASSWORD on all \
                     hosts"
                    .to_owned()
            }
            Some(mark) if self.admission.is_spent(*mark) => spent(),
            Some(_) => String::new(),
        }
    }

    fn find(&self, text: &str) -> Result<PeerIdentity, RevokeError> {
        let unknown = || RevokeError::Unknown { name: printable(text, MAX_NAME_LENGTH) };
        if let Ok(peer) = text.parse::<PeerName>() {
            return if peer == self.config.local { Err(RevokeError::Local) } else { Ok(self.identity(peer)) };
        }
        let peers = self.store.origins().chain(self.reachable.iter().copied()).chain(self.admission.revoked());
        let identities: BTreeSet<PeerIdentity> = peers.map(|peer| self.identity(peer)).collect();
        let [by_name, by_nickname] =
            [|i: &PeerIdentity| i.name.clone(), |i: &PeerIdentity| i.nickname.clone()].map(|part| {
                let found = identities.iter().filter(|identity| !text.is_empty() && part(identity) == text);
                found.cloned().collect::<Vec<_>>()
            });
        let found = if by_name.is_empty() { by_nickname } else { by_name };
        match found.as_slice() {
            [] => Err(unknown()),
            [one] if one.peer == self.config.local => Err(RevokeError::Local),
            [one] => Ok(one.clone()),
            several => Err(RevokeError::Ambiguous {
                name: printable(text, MAX_NAME_LENGTH),
                keys: several.iter().map(|identity| identity.peer.to_hex()).collect(),
            }),
        }
    }

    /// Tells whether the peer's key is let in no more.
    #[must_use]
    pub fn is_revoked(&self, peer: PeerName) -> bool {
        self.admission.revocations.contains_key(&peer)
    }

    /// Returns all revocations known, to be persisted.
    #[must_use]
    pub fn revocations(&self) -> Vec<Revocation> {
        self.admission.revocations.values().cloned().collect()
    }

    /// Returns what others say of this host's own key, if they let it in no more, to be persisted.
    #[must_use]
    pub const fn told(&self) -> Option<&Told> {
        self.admission.told.as_ref()
    }

    /// Returns the members of the mesh, now or before, to be persisted.
    #[must_use]
    pub fn known_peers(&self) -> BTreeSet<PeerName> {
        self.admission.known.clone()
    }

    /// Returns what a revoked peer was called.
    pub(super) fn revoked_identity(&self, peer: PeerName) -> Option<PeerIdentity> {
        self.admission.revocations.get(&peer).map(Revocation::identity)
    }
}

/// What follows.
impl Mesh {
    /// Takes over what a peer published of revocations.
    pub(super) fn learn_revocations(&mut self, origin: PeerName, entries: &[Entry], now: Instant) {
        for Entry { key, value } in entries {
            let Some(revocation) = value.as_ref().and_then(|value| Revocation::decode(key, value)) else { continue };
            // Of those in one change an earlier one may have been that of the origin.
            if self.is_revoked(origin) {
                return;
            }
            if revocation.peer == self.config.local {
                self.hear_of_own(origin, self.sentence(&revocation));
            } else {
                self.adopt(revocation, now);
            }
        }
    }

    /// Learns that others let this host in no more.
    pub(super) fn hear_of_own(&mut self, by: PeerName, sentence: String) {
        if self.admission.told.is_none() && !self.is_revoked(by) {
            self.admission.told = Some(Told { by, sentence });
            self.events.push_back(Event::RevocationsChanged);
        }
    }

    /// Takes over a revocation, if it is news.
    fn adopt(&mut self, revocation: Revocation, now: Instant) {
        let peer = revocation.peer;
        let revocations = &mut self.admission.revocations;
        let is_new = !revocations.contains_key(&peer);
        if is_new && revocations.len() >= MAX_REVOCATIONS {
            return;
        }
        let kept = revocations.entry(peer).or_insert_with(|| revocation.clone());
        let before = kept.clone();
        kept.join(revocation);
        if !is_new && *kept == before {
            return;
        }
        if is_new {
            self.shut_out(peer, now);
        }
        self.events.push_back(Event::RevocationsChanged);
        self.publish_own_revocations(now);
    }

    /// Ends all that there is with a peer whose key was revoked.
    fn shut_out(&mut self, peer: PeerName, now: Instant) {
        let reason = GoodbyeReason::Revoked;
        let Some(revocation) = self.admission.revocations.get(&peer) else { return };
        let message = self.sentence(revocation);
        let problem = Problem { reason: reason.word(), message: message.clone(), is_final: true };
        if let Some(contender) = self.contenders.remove(&peer) {
            self.close(contender.connection, reason, message.clone(), Some(problem.clone()));
        }
        if let Some(connection) = self.by_peer.get(&peer).copied() {
            self.close(connection, reason, message, Some(problem.clone()));
            self.drop_connection(connection, Some(problem), now);
        }
        self.store.bar(peer);
        self.facts.remove(&peer);
        self.topology.set_links(peer, BTreeSet::new());
        if self.admission.known.remove(&peer) {
            self.known_peers_changed();
        }
        self.admission.told.take_if(|told| told.by == peer);
        self.events.push_back(Event::PeerRevoked { peer });
        self.graph_changed(now);
        self.repair_soon(now);
    }

    /// Publishes all revocations known.
    pub(super) fn publish_own_revocations(&mut self, now: Instant) {
        let entries = self.admission.revocations.values().map(Revocation::entry).collect();
        // Within every limit: revocations are few.
        if self.publish_on(REVOCATIONS_CHANNEL, true, entries, now).is_ok() {
            // To all, at once: others may still see a graph that has the revoked peer in it.
            let local = self.config.local;
            self.spread_to_all(local, None);
        }
    }

    /// Remembers a peer as a member.
    pub(super) fn note_member(&mut self, peer: PeerName) {
        let known = &mut self.admission.known;
        if peer == self.config.local || known.contains(&peer) {
            return;
        }
        if known.len() >= MAX_KNOWN_PEERS {
            // Whoever is part of the mesh, or was lately, stays.
            let gone = known.iter().find(|peer| self.store.position(**peer).is_none()).copied();
            if !gone.is_some_and(|gone| known.remove(&gone)) {
                return;
            }
        }
        known.insert(peer);
        self.known_peers_changed();
    }

    fn known_peers_changed(&mut self) {
        if !self.events.contains(&Event::KnownPeersChanged) {
            self.events.push_back(Event::KnownPeersChanged);
        }
    }

    /// Returns why the key of a connection's other end is not let in, if so.
    pub(super) fn key_objection(&self, introduced: &Introduced) -> Option<(GoodbyeReason, String)> {
        let theirs = &introduced.introduction;
        if let Some(revocation) = self.admission.revocations.get(&introduced.peer) {
            return Some((GoodbyeReason::Revoked, self.sentence(revocation)));
        }
        if self.admission.known.contains(&introduced.peer) {
            return None;
        }
        let current = self.config.password_marks.first();
        let (name, nickname, ours) = (&theirs.name, &theirs.nickname, &self.config.name);
        let message = match introduced.password? {
            // Also one that was the current one when the handshake began.
            mark if Some(&mark) != current => format!(
                "{name}({nickname}) is new to {ours}, which lets nobody new in with the old password: set the new WEFT_PASSWORD on it"
            ),
            mark if self.admission.is_spent(mark) => format!(
                "{name}({nickname}) is new to {ours}, which lets nobody new in with a password that was in force when a host was \
                 revoked: set a new WEFT_PASSWORD on all hosts, one after the other, with the present one as WEFT_PASSWORD_OLD"
            ),
            _ => return None,
        };
        Some((GoodbyeReason::UnknownKey, message))
    }

    /// Says what is wrong with keys and passwords.
    pub(super) fn admission_problems(&self) -> impl Iterator<Item = Problem> {
        let problem = |reason, message| Problem { reason, message, is_final: false };
        let told =
            self.admission.told.as_ref().map(|told| problem(GoodbyeReason::Revoked.word(), told.sentence.clone()));
        let mark = self.config.password_marks.first();
        let must_change = mark.filter(|mark| self.admission.is_spent(**mark));
        let must_change = must_change.map(|_| {
            let message = spent();
            problem("password_known_to_revoked", message)
        });
        told.into_iter().chain(must_change).chain(self.change_problem().map(|message| problem("old_password", message)))
    }

    /// Drops the old password when nobody has needed it for a while. To a host that knows of no other, any could be new.
    pub(super) fn drop_unused_password(&mut self, now: Instant) {
        let marks = &self.config.password_marks;
        let others = || self.facts.iter().filter(|(peer, _)| **peer != self.config.local);
        let unused = marks.len() > 1
            && others().next().is_some()
            && others().all(|(_, facts)| facts.password_marks.first() == marks.first())
            && self.reachable.iter().all(|peer| self.facts.contains_key(peer));
        if !unused {
            self.admission.old_unused = None;
        } else if now >= *self.admission.old_unused.get_or_insert(now) + self.config.timing.old_password {
            let current = marks.iter().take(1).copied().collect();
            self.set_password_marks(current, now);
            self.events.push_back(Event::OldPasswordDropped);
        }
    }

    /// Says to both sides that a key was revoked.
    fn sentence(&self, revoked: &Revocation) -> String {
        let by = self.identity(revoked.by);
        format!(
            "the key of {}({}) was revoked by {}({}), and no host lets it in: to have that host back as a new one, reset weft \
             there and start it with the mesh's new password",
            revoked.name, revoked.nickname, by.name, by.nickname
        )
    }

    /// Says how far a change of the password has come, as long as it is not done.
    fn change_problem(&self) -> Option<String> {
        let ours = *self.config.password_marks.first()?;
        let marks = |test: &dyn Fn(&[PasswordMark]) -> bool| -> Vec<String> {
            let facts = self.facts.iter().filter(|(_, facts)| test(&facts.password_marks));
            facts.map(|(_, facts)| format!("{}({})", facts.name, facts.nickname)).collect()
        };
        let ahead = marks(&|theirs| theirs.first() != Some(&ours) && theirs.get(1) == Some(&ours));
        if !ahead.is_empty() {
            return Some(format!(
                "this host still uses the old password: set the WEFT_PASSWORD of {} on it",
                list(&ahead)
            ));
        }
        self.config.password_marks.get(1)?;
        let behind = marks(&|theirs| theirs.first().is_some_and(|theirs| *theirs != ours));
        let name = &self.config.name;
        Some(if !behind.is_empty() {
            format!("the old password is still used by {}: set the new WEFT_PASSWORD there", list(&behind))
        } else if self.facts.keys().any(|peer| *peer != self.config.local) {
            format!(
                "{name} still takes the old password, which no host that it knows has any more: it is dropped within two minutes"
            )
        } else {
            format!(
                "{name} still takes the old password, and knows no other host that might need it: leave WEFT_PASSWORD_OLD out on it"
            )
        })
    }
}

fn spent() -> String {
    "the password was in force when a host was revoked, so that it lets nobody new in: set a new WEFT_PASSWORD on all hosts, one \
     after the other, with the present one as WEFT_PASSWORD_OLD"
        .to_owned()
}

fn list(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}
