//! Whom this host lets in, as its disk remembers it: the keys that were revoked, and those of members.

use std::collections::BTreeSet;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use weft_router_core::{
    handshake::PasswordMark,
    mesh::{Mesh, Revocation, Told},
};
use weft_service::Store;
use weft_types::{InvalidPeerName, PeerName};

/// File with the keys that are let in no more.
const REVOCATIONS_FILE: &str = "revocations.json";
/// File with the keys of the mesh's members, now or before.
const KNOWN_PEERS_FILE: &str = "known-peers.json";

/// What there was at the start.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) revocations: Vec<Revocation>,
    /// What others say of this host's own key, if they let it in no more.
    pub(crate) told: Option<Told>,
    pub(crate) known_peers: BTreeSet<PeerName>,
}

/// The file of revocations.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Revocations {
    revoked: Vec<Revoked>,
    /// What others say of this host's own key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<Said>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Said {
    by: String,
    sentence: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Revoked {
    peer: String,
    by: String,
    name: String,
    nickname: String,
    password_marks: BTreeSet<u16>,
}

impl Admitted {
    /// Reads both files.
    ///
    /// # Errors
    /// If one is damaged or of a later version. It is left as it is.
    pub(crate) fn load(store: &Store) -> anyhow::Result<Self> {
        let damaged = |file| format!("the file {} is damaged: restore it, or remove it", store.path(file).display());
        let Revocations { revoked, told } = store.load(REVOCATIONS_FILE)?;
        let revocations = revoked.into_iter().map(Revoked::read).collect::<Result<_, _>>();
        let known: Vec<String> = store.load(KNOWN_PEERS_FILE)?;
        let known_peers = known.iter().map(|key| key.parse()).collect::<Result<_, _>>();
        let told = told.map(Said::read).transpose();
        Ok(Self {
            revocations: revocations.with_context(|| damaged(REVOCATIONS_FILE))?,
            told: told.with_context(|| damaged(REVOCATIONS_FILE))?,
            known_peers: known_peers.with_context(|| damaged(KNOWN_PEERS_FILE))?,
        })
    }
}

impl Revocations {
    /// Returns what the file is to hold.
    pub(crate) fn of(mesh: &Mesh) -> Self {
        Self { revoked: mesh.revocations().iter().map(Revoked::from).collect(), told: mesh.told().map(Said::from) }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn save(&self, store: &Store) -> anyhow::Result<()> {
        store.save(REVOCATIONS_FILE, self)
    }
}

/// Writes the keys of members.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn save_known_peers(store: &Store, peers: &BTreeSet<PeerName>) -> anyhow::Result<()> {
    store.save(KNOWN_PEERS_FILE, &peers.iter().map(PeerName::to_hex).collect::<Vec<_>>())
}

impl Said {
    fn read(self) -> Result<Told, InvalidPeerName> {
        Ok(Told { by: self.by.parse()?, sentence: self.sentence })
    }
}

impl From<&Told> for Said {
    fn from(told: &Told) -> Self {
        Self { by: told.by.to_hex(), sentence: told.sentence.clone() }
    }
}

impl Revoked {
    fn read(self) -> Result<Revocation, InvalidPeerName> {
        Ok(Revocation {
            peer: self.peer.parse()?,
            by: self.by.parse()?,
            name: self.name,
            nickname: self.nickname,
            marks: self.password_marks.into_iter().map(PasswordMark).collect(),
        })
    }
}

impl From<&Revocation> for Revoked {
    fn from(revocation: &Revocation) -> Self {
        Self {
            peer: revocation.peer.to_hex(),
            by: revocation.by.to_hex(),
            name: revocation.name.clone(),
            nickname: revocation.nickname.clone(),
            password_marks: revocation.marks.iter().map(|mark| mark.0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_damage_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(folder.path()).expect("opened");
        let nothing = Admitted::load(&store).expect("nothing yet");
        assert!(nothing.revocations.is_empty() && nothing.told.is_none() && nothing.known_peers.is_empty());
        let [one, other] = [1, 2].map(|byte| PeerName::from_public_key([byte; 32]));
        let revocation = Revocation {
            peer: one,
            by: other,
            name: "lost".into(),
            nickname: "host1".into(),
            marks: [PasswordMark(7), PasswordMark(65_535)].into(),
        };
        let told = Told { by: other, sentence: "out".into() };
        let file = Revocations { revoked: vec![Revoked::from(&revocation)], told: Some(Said::from(&told)) };
        file.save(&store).expect("written");
        save_known_peers(&store, &[one, other].into()).expect("written");
        let read = Admitted::load(&store).expect("read");
        assert_eq!(read.revocations, [revocation]);
        assert_eq!((read.told, read.known_peers), (Some(told), [one, other].into()));
        store.save(KNOWN_PEERS_FILE, &["nonsense"]).expect("written");
        let error = format!("{:#}", Admitted::load(&store).expect_err("refused"));
        assert!(error.contains("known-peers.json is damaged"), "{error}");
    }
}
