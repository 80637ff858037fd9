//! What does not work: logged once when it begins and once when it ends, and shown with its age.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use weft_router_core::mesh::{Mesh, Problem};

use super::{Driver, ProblemView};

/// How long a failed attempt to connect with us is shown.
const REFUSED_SHOWN: Duration = Duration::from_secs(150);
/// Hosts whose failed attempts are remembered.
const REFUSED: usize = 64;

/// A failed attempt to connect with us.
#[derive(Debug)]
pub(super) struct Refused {
    problem: Problem,
    last: Instant,
}

/// Since when each problem has existed, by reason and message.
#[derive(Debug, Default)]
pub(super) struct Problems {
    since: BTreeMap<(String, String), Instant>,
}

impl Problems {
    /// Compares what there is now with what there was.
    fn update(&mut self, current: &[(String, String)], now: Instant) {
        self.since.retain(|(reason, message), _| {
            let stays = current.iter().any(|known| (&known.0, &known.1) == (reason, message));
            if !stays {
                tracing::info!(reason, "solved: {message}");
            }
            stays
        });
        for (reason, message) in current {
            self.since.entry((reason.clone(), message.clone())).or_insert_with(|| {
                tracing::warn!(reason, "{message}");
                now
            });
        }
    }

    /// Returns a problem with its age.
    pub(super) fn view(&self, reason: &str, message: &str, now: Instant) -> ProblemView {
        let since = self.since.get(&(reason.to_owned(), message.to_owned()));
        let age = since.map(|since| now.saturating_duration_since(*since)).unwrap_or_default();
        ProblemView { reason: reason.to_owned(), message: message.to_owned(), age }
    }
}

impl Driver {
    /// Remembers that somebody failed to connect with us.
    pub(super) fn note_refused(&mut self, remote: IpAddr, problem: Problem, now: Instant) {
        // Port scanners and health checks of load balancers are nobody's problem.
        if !problem.is_final {
            tracing::debug!(%remote, reason = problem.reason, message = problem.message, "a handshake failed");
            return;
        }
        self.refused.insert(remote, Refused { problem, last: now });
        if self.refused.len() > REFUSED {
            let oldest = self.refused.iter().min_by_key(|(_, refused)| refused.last).map(|(remote, _)| *remote);
            self.refused.remove(&oldest.unwrap_or(remote));
        }
        self.look_for_problems(now);
    }

    /// Logs what has begun and what has ended not to work.
    pub(super) fn look_for_problems(&mut self, now: Instant) {
        self.refused.retain(|_, refused| now.saturating_duration_since(refused.last) < REFUSED_SHOWN);
        let mut current = of_mesh(&self.mesh, now);
        current.extend(self.host_problems());
        current.extend(self.mesh.targets(now).into_iter().filter_map(|target| target.problem).map(named));
        current.sort();
        current.dedup();
        self.problems.update(&current, now);
    }

    /// Returns the problems that are no single target's, worst first.
    pub(super) fn general_problems(&self, now: Instant) -> Vec<ProblemView> {
        let mut problems = self.host_problems();
        problems.extend(of_mesh(&self.mesh, now));
        let targets: Vec<(String, String)> =
            self.mesh.targets(now).into_iter().filter_map(|target| target.problem).map(named).collect();
        problems.extend(targets);
        let mut shown: Vec<ProblemView> = Vec::new();
        for (reason, message) in problems {
            if !shown.iter().any(|known| known.message == message) {
                shown.push(self.problems.view(&reason, &message, now));
            }
        }
        shown
    }

    fn host_problems(&self) -> Vec<(String, String)> {
        let kernel = self.kernel.problems().into_iter().map(|problem| (problem.reason.to_owned(), problem.message));
        let metrics = self.metrics_problem.borrow().clone().map(named);
        kernel.chain(metrics).chain(self.refused.values().map(|refused| named(refused.problem.clone()))).collect()
    }
}

fn of_mesh(mesh: &Mesh, now: Instant) -> Vec<(String, String)> {
    let refusals = mesh.refusals(now).into_iter().map(|refusal| refusal.problem);
    mesh.problems().into_iter().chain(refusals).map(named).collect()
}

fn named(problem: Problem) -> (String, String) {
    (problem.reason.to_owned(), problem.message)
}
