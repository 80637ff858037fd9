//! What does not work: logged once when it begins and once when it ends, and shown with its age.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use weft_router_core::{
    mesh::{ConnectionView, Problem},
    path::{CandidateState, Unused, Via},
};

use super::{Driver, ProblemView, paths::Path};
use crate::dataplane::Statistics;

/// How long a failed attempt to connect with us is shown.
const REFUSED_SHOWN: Duration = Duration::from_secs(150);
/// How long keys may be agreed on and datagrams be on their way before that is a problem.
const PATH_PATIENCE: Duration = Duration::from_secs(3);
/// Hosts whose failed attempts are remembered.
const REFUSED: usize = 64;

/// A failed attempt to connect with us.
#[derive(Debug)]
pub(super) struct Refused {
    problem: Problem,
    last: Instant,
}

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    reason: String,
    message: String,
    /// Since when, where it says so itself.
    since: Option<Instant>,
}

impl From<Problem> for Found {
    fn from(problem: Problem) -> Self {
        Self { reason: problem.reason.to_owned(), message: problem.message, since: None }
    }
}

/// Since when each problem has existed, by reason and message.
#[derive(Debug, Default)]
pub(super) struct Problems {
    since: BTreeMap<(String, String), Instant>,
}

impl Problems {
    /// Compares what there is now with what there was. A problem whose message differs from that of one that is gone in
    /// figures only is the same one, with other figures.
    fn update(&mut self, current: &[Found], now: Instant) {
        let is_current = |reason: &str, message: &str| {
            current.iter().any(|found| found.reason == reason && found.message == message)
        };
        let mut gone = BTreeMap::new();
        self.since.retain(|(reason, message), since| {
            let stays = is_current(reason, message);
            if !stays {
                gone.insert((reason.clone(), without_figures(message)), (message.clone(), *since));
            }
            stays
        });
        for Found { reason, message, since } in current {
            self.since.entry((reason.clone(), message.clone())).or_insert_with(|| {
                if let Some((_, since)) = gone.remove(&(reason.clone(), without_figures(message))) {
                    tracing::debug!(reason, "{message}");
                    return since;
                }
                tracing::warn!(reason, "{message}");
                since.unwrap_or(now)
            });
        }
        for ((reason, _), (message, _)) in gone {
            tracing::info!(reason, "solved: {message}");
        }
    }

    /// Returns a problem with its age.
    pub(super) fn view(&self, reason: &str, message: &str, now: Instant) -> ProblemView {
        let since = self.since.get(&(reason.to_owned(), message.to_owned()));
        let age = since.map(|since| now.saturating_duration_since(*since)).unwrap_or_default();
        ProblemView { reason: reason.to_owned(), message: message.to_owned(), age }
    }
}

/// Returns a message with one `#` for each number.
fn without_figures(message: &str) -> String {
    let mut shape = String::with_capacity(message.len());
    for c in message.chars() {
        if !c.is_ascii_digit() {
            shape.push(c);
        } else if !shape.ends_with('#') {
            shape.push('#');
        }
    }
    shape
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
        let mut current = self.found(now);
        current.sort();
        current.dedup_by(|one, other| (&one.reason, &one.message) == (&other.reason, &other.message));
        self.problems.update(&current, now);
    }

    /// Returns all problems, worst first.
    pub(super) fn general_problems(&self, now: Instant) -> Vec<ProblemView> {
        let mut shown: Vec<ProblemView> = Vec::new();
        for Found { reason, message, .. } in self.found(now) {
            if !shown.iter().any(|known| known.message == message) {
                shown.push(self.problems.view(&reason, &message, now));
            }
        }
        shown
    }

    /// Returns why datagrams do not pass by UDP to a peer that we are connected with, if they do not, and how else they go.
    pub(super) fn path_problem(
        &self,
        view: &ConnectionView,
        statistics: &Statistics,
        now: Instant,
    ) -> Option<ProblemView> {
        let path = self.paths.get(view.identity.peer);
        let name = &view.identity.name;
        // A connection that the peer opened comes from any port.
        let port = path.and_then(Path::port).unwrap_or_else(|| view.remote.port());
        let up = path.and_then(|path| path.up);
        let instead = match up {
            Some((Via::Direct(_), _)) => return None,
            Some((Via::Relay(relay), _)) => Some(format!("over {}", self.mesh.identity(relay).name)),
            Some((Via::Stream, _)) => Some("inside the control connection".to_owned()),
            None => None,
        };
        if let Some(instead) = instead {
            let known = statistics.peers.get(&view.identity.peer);
            let candidates = known.into_iter().flat_map(|known| &known.path.candidates);
            let udp = candidates.filter(|candidate| matches!(candidate.via, Via::Direct(_)));
            // What comes closest to working says most.
            let closest = udp.filter_map(|udp| udp.unused.as_ref().map(|(reason, since)| (udp, reason, *since)));
            let closest = closest.min_by_key(|(udp, ..)| (udp.state != CandidateState::Alive, udp.loss));
            let (message, since) = match closest {
                Some((_, reason, since)) if !matches!(reason, Unused::NoAnswer { .. }) => {
                    (format!("data for {name} goes {instead}, because UDP to it {reason}"), Some(since))
                }
                Some(_) | None => (
                    format!(
                        "no datagram comes back from {name} by UDP, so data for it goes {instead}: check that UDP port {port} \
                         is open both ways"
                    ),
                    closest.map(|(.., since)| since),
                ),
            };
            let age = since.map_or(view.age, |since| now.saturating_duration_since(since));
            return Some(ProblemView { reason: "no_udp_path".to_owned(), message, age });
        }
        let message = match path.and_then(|path| path.cipher) {
            Some(_) => {
                format!("no datagram comes back from {name}: check that UDP port {port} is open both ways")
            }
            None => format!("keys for data are being agreed on with {name}"),
        };
        let since = path.and_then(|path| path.missing_since);
        let age = since.map_or(view.age, |since| now.saturating_duration_since(since));
        Some(ProblemView { reason: "no_data_path".to_owned(), message, age })
    }

    /// Lists what does not work now: of the host, of the mesh, of paths, of targets.
    fn found(&self, now: Instant) -> Vec<Found> {
        let kernel = self.kernel.problems().into_iter().map(|problem| Found {
            reason: problem.reason.to_owned(),
            message: problem.message,
            since: None,
        });
        let unkept = self.saves.problems().map(|error| Found {
            reason: "state_not_kept".to_owned(),
            message: format!("{error}; until then a restart of the router forgets what changed"),
            since: None,
        });
        let refused = self.refused.values().map(|refused| refused.problem.clone().into());
        let refusals = self.mesh.refusals(now).into_iter().map(|refusal| refusal.problem.into());
        let connections = self.mesh.connections(now);
        let statistics = self.paths.statistics();
        let paths = connections.iter().filter_map(|view| {
            let ProblemView { reason, message, age } = self.path_problem(view, &statistics, now)?;
            (age >= PATH_PATIENCE).then(|| Found { reason, message, since: now.checked_sub(age) })
        });
        let vxlan = self.trusted.shown().into_iter().filter(|(_, way)| way.failed).map(|(peer, way)| Found {
            reason: "no_vxlan_path".to_owned(),
            message: format!(
                "frames for {} go sealed, though both hosts trust each other's subnets: {}",
                self.mesh.identity(peer).name,
                way.reason
            ),
            since: None,
        });
        let targets = self.mesh.targets(now).into_iter().filter_map(|target| target.problem).map(Into::into);
        let mesh = self.mesh.problems().into_iter().map(Into::into);
        let metrics = self.metrics_problem.borrow().clone().map(Into::into);
        let services = self.services.borrow().clone().into_iter().map(Into::into);
        let traces = weft_service::trace::problem().map(|message| Found {
            reason: "no_traces".to_owned(),
            message,
            since: None,
        });
        kernel
            .chain(unkept)
            .chain(metrics)
            .chain(traces)
            .chain(services)
            .chain(refused)
            .chain(mesh)
            .chain(refusals)
            .chain(paths)
            .chain(vxlan)
            .chain(targets)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_as_old_as_it_is_whatever_its_figures() {
        let found = |message: &str| Found { reason: "lossy".to_owned(), message: message.to_owned(), since: None };
        let start = crate::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let age = |problems: &Problems, message: &str| problems.view("lossy", message, at(9)).age.as_secs();
        let mut problems = Problems::default();
        problems.update(&[found("12 frames of one are lost")], at(0));
        problems.update(&[found("345 frames of one are lost")], at(4));
        assert_eq!(age(&problems, "345 frames of one are lost"), 9);
        problems.update(&[found("345 frames of one are lost"), found("6 frames of one are lost")], at(5));
        assert_eq!(age(&problems, "6 frames of one are lost"), 4, "the other one is still there");
        problems.update(&[found("6 frames of two are lost")], at(7));
        assert_eq!(age(&problems, "6 frames of two are lost"), 2);
    }
}
