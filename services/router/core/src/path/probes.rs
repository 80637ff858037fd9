//! Questions that were sent and may still be answered.

use std::{collections::VecDeque, time::Instant};

use super::DEAD_TIME;

/// Questions that may be answered; older ones are forgotten.
const OUTSTANDING: usize = 1024;

/// What a question is to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Whether the way is there, how long it takes and what it loses.
    Alive,
    /// Whether so many bytes pass.
    Size(usize),
    /// Whether a way that lost much still does.
    Trial,
    /// Whether several that are sent at once pass.
    Batch,
}

impl Purpose {
    /// Tells whether a way that loses nothing may lose it: it may be too large, or batches may not pass.
    pub(super) const fn is_daring(self) -> bool {
        matches!(self, Self::Size(_) | Self::Batch)
    }
}

/// A question, or several with consecutive tokens.
#[derive(Debug, Clone)]
pub(super) struct Question {
    first: u64,
    count: u8,
    answered: u32,
    /// The number of the way, which no other one ever has.
    pub(super) way: u32,
    pub(super) purpose: Purpose,
    pub(super) sent: Instant,
    /// Datagrams that went that way before.
    pub(super) datagrams: u64,
    /// When it counts as lost.
    deadline: Instant,
    judged: bool,
}

impl Question {
    /// Returns how many of its datagrams were answered.
    pub(super) const fn answered(&self) -> u32 {
        self.answered.count_ones()
    }

    /// Returns how many were not.
    pub(super) const fn unanswered(&self) -> u64 {
        (self.count as u32 - self.answered.count_ones()) as u64
    }

    /// Tells whether it was already taken for lost.
    pub(super) const fn is_late(&self) -> bool {
        self.judged
    }

    /// Tells whether all of it is answered.
    pub(super) const fn is_complete(&self) -> bool {
        self.unanswered() == 0
    }
}

/// All questions of one peer, in order of sending.
#[derive(Debug, Default)]
pub(super) struct Probes {
    questions: VecDeque<Question>,
    next: u64,
}

impl Probes {
    /// Notes a question that is sent, and returns its token. `purpose`, `way` and `datagrams` are those of [`Question`].
    pub(super) fn ask(
        &mut self,
        way: u32,
        purpose: Purpose,
        count: u8,
        datagrams: u64,
        now: Instant,
        deadline: Instant,
    ) -> [u8; 16] {
        if self.questions.len() == OUTSTANDING {
            self.questions.pop_front();
        }
        let first = self.next;
        self.next += u64::from(count);
        let judged = false;
        let answered = 0;
        self.questions.push_back(Question {
            first,
            count,
            answered,
            way,
            purpose,
            sent: now,
            datagrams,
            deadline,
            judged,
        });
        let mut token = [0; 16];
        token[..8].copy_from_slice(&first.to_be_bytes());
        token
    }

    /// Finds the question that an answer belongs to, unless the answer came before. A question that is complete is
    /// forgotten.
    pub(super) fn answer(&mut self, token: [u8; 16]) -> Option<Question> {
        let [a, b, c, d, e, f, g, h, rest @ ..] = token;
        if rest != [0; 8] {
            return None;
        }
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let index = self.questions.partition_point(|question| question.first <= number).checked_sub(1)?;
        let question = self.questions.get_mut(index)?;
        let bit = 1 << number.checked_sub(question.first).filter(|bit| *bit < question.count.into())?;
        if question.answered & bit != 0 {
            return None;
        }
        question.answered |= bit;
        let answered = question.clone();
        if answered.is_complete() {
            self.questions.remove(index);
        }
        Some(answered)
    }

    /// Counts the datagrams of daring questions by the same way that were asked earlier than this one and may still be
    /// answered in time.
    pub(super) fn daring_before(&self, question: &Question) -> u64 {
        let before = self.questions.iter().take_while(|other| other.sent < question.sent);
        let same = before.filter(|other| other.way == question.way && !other.judged && other.purpose.is_daring());
        same.map(Question::unanswered).sum()
    }

    /// Returns a question that has just become too old to count as anything but lost.
    pub(super) fn poll_lost(&mut self, now: Instant) -> Option<Question> {
        while self
            .questions
            .front()
            .is_some_and(|question| question.judged && now.saturating_duration_since(question.sent) >= DEAD_TIME)
        {
            self.questions.pop_front();
        }
        let lost = self.questions.iter_mut().find(|question| !question.judged && question.deadline <= now)?;
        lost.judged = true;
        Some(lost.clone())
    }

    /// Returns when the next one counts as lost.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.questions.iter().filter(|question| !question.judged).map(|question| question.deadline).min()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.questions.clear();
    }

    /// Forgets those of one way.
    pub(super) fn forget(&mut self, way: u32) {
        self.questions.retain(|question| question.way != way);
    }
}
