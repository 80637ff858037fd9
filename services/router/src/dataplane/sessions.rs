//! The sessions with one peer: the one that seals, and those that still open.

use std::time::{Duration, Instant};

use weft_router_core::{
    datagram::{Header, OpenError, Opened, Opener, REKEY_AFTER, Sealer},
    forward::DropReason,
    session::{AGE_LIMIT, EstablishedSession, SessionIndex},
};

/// How long a replaced session stays after its last datagram: some were under way, and where two agreements crossed, the
/// other side may seal with the one that we replaced.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// Sessions of one peer besides the one that seals; the oldest goes first.
pub(super) const OTHER_SESSIONS: usize = 4;
/// Datagrams between requests for new keys.
const REKEY_REPEAT: u64 = 1 << 24;

#[derive(Debug)]
struct Session {
    index: SessionIndex,
    sealer: Sealer,
    opener: Opener,
    /// When the keys must be gone, in use or not.
    too_old: Instant,
    expires: Option<Instant>,
    rekey_at: u64,
    /// How many were agreed on before.
    number: u64,
    /// Whether it has not sealed yet, nor one that was agreed on later.
    may_seal: bool,
}

/// All sessions with one peer.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    current: Option<Session>,
    others: Vec<Session>,
    /// How many were agreed on.
    agreed: u64,
    /// Whether another session seals since the last look.
    promoted: bool,
}

impl Sessions {
    pub(super) const fn can_seal(&self) -> bool {
        self.current.is_some()
    }

    /// Tells, once, whether another session seals since the last call.
    pub(super) fn take_promoted(&mut self) -> bool {
        std::mem::take(&mut self.promoted)
    }

    /// Seals a datagram in place; see [`Sealer::seal`].
    pub(super) fn seal(&mut self, slot: &mut [u8]) -> Result<(), DropReason> {
        let session = self.current.as_mut().ok_or(DropReason::NoSession)?;
        session.sealer.seal(slot).map_err(|_| DropReason::SessionExhausted)
    }

    /// Tells whether the keys have sealed enough, once for every further while.
    pub(super) fn wants_rekey(&mut self) -> bool {
        match &mut self.current {
            Some(session) if session.sealer.sealed() >= session.rekey_at => {
                session.rekey_at = session.sealer.sealed() + REKEY_REPEAT;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Opens a datagram in place. The first one of a session that we did not ask for makes it the one that seals: of several
    /// first messages that we answered, the peer may have taken any answer.
    pub(super) fn open<'a>(
        &mut self,
        header: Header,
        datagram: &'a mut [u8],
        now: Instant,
    ) -> Result<Opened<'a>, DropReason> {
        let reason = |error| match error {
            OpenError::Replayed => DropReason::Replayed,
            OpenError::NotAuthentic => DropReason::NotAuthentic,
        };
        if let Some(current) = &mut self.current
            && current.index == header.receiver
        {
            return current.opener.open(header, datagram).map_err(reason);
        }
        let position = self.others.iter().position(|session| session.index == header.receiver);
        let position = position.ok_or(DropReason::UnknownSession)?;
        let opened = self.others[position].opener.open(header, datagram).map_err(reason)?;
        if !self.others[position].may_seal {
            self.others[position].expires = Some(now + GRACE);
            return Ok(Opened { newest: false, ..opened });
        }
        let session = self.others.remove(position);
        self.promote(session, now);
        Ok(opened)
    }

    /// Adds a session that was agreed on.
    pub(super) fn install(&mut self, agreed: &EstablishedSession, now: Instant) {
        let session = Session {
            index: agreed.local_index,
            sealer: Sealer::new(agreed.cipher, &agreed.send_key, agreed.remote_index),
            opener: Opener::new(agreed.cipher, &agreed.receive_key),
            too_old: now + AGE_LIMIT,
            expires: None,
            rekey_at: REKEY_AFTER,
            number: self.agreed,
            may_seal: true,
        };
        self.agreed += 1;
        for other in &mut self.others {
            other.expires.get_or_insert(now + GRACE);
        }
        if agreed.initiator || self.current.is_none() {
            self.promote(session, now);
        } else {
            self.others.push(session);
        }
    }

    fn promote(&mut self, session: Session, now: Instant) {
        self.promoted = true;
        for earlier in self.others.iter_mut().filter(|other| other.number < session.number) {
            earlier.may_seal = false;
        }
        if let Some(mut old) = self.current.replace(Session { expires: None, may_seal: false, ..session }) {
            old.expires = Some(now + GRACE);
            self.others.push(old);
        }
    }

    /// Removes the sessions whose time is over, and those that are too many. Tells whether the one that seals is among them.
    pub(super) fn expire(&mut self, now: Instant, removed: &mut Vec<SessionIndex>) -> bool {
        let old = self.current.take_if(|session| session.too_old <= now);
        removed.extend(old.as_ref().map(|old| old.index));
        let too_many = self.others.len().saturating_sub(OTHER_SESSIONS);
        removed.extend(self.others.drain(..too_many).map(|session| session.index));
        self.others.retain(|session| {
            let over = session.too_old <= now || session.expires.is_some_and(|expires| expires <= now);
            if over {
                removed.push(session.index);
            }
            !over
        });
        old.is_some()
    }

    /// Returns the indices of all.
    pub(super) fn indices(&self) -> impl Iterator<Item = SessionIndex> {
        self.current.iter().chain(&self.others).map(|session| session.index)
    }

    /// Returns how many there are besides the one that seals.
    #[cfg(test)]
    pub(super) fn others(&self) -> usize {
        self.others.len()
    }

    /// Returns when [`Sessions::expire`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let expiry = self.others.iter().filter_map(|session| session.expires);
        let age = self.current.iter().chain(&self.others).map(|session| session.too_old);
        expiry.chain(age).min()
    }
}
