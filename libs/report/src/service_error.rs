//! Why a service cannot be asked, or does not do what it is asked.

use std::{io, path::Path, time::Duration};

use tonic::{Code, Status};
use weft_proto::client::Service;

/// A service did not do what it was asked. The text is one sentence for people.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It cannot be asked.
    #[error("{message}")]
    Away {
        /// A stable word for programs.
        reason: &'static str,
        /// The sentence.
        message: String,
    },
    /// It said no, and why.
    #[error("{0}")]
    Refused(String),
}

impl ServiceError {
    /// Returns the stable word for what happened.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Away { reason, .. } => reason,
            Self::Refused(_) => "refused",
        }
    }

    /// Tells whether nobody serves its socket: it was stopped, or ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Away { reason: "not_running" | "failed", .. })
    }

    /// Says why nobody could be connected with on `socket`; `last_words` is what the service ended with, if it did.
    #[must_use]
    pub fn away(service: Service, socket: &Path, error: &io::Error, last_words: Option<&str>) -> Self {
        let (name, path) = (service.name(), socket.display());
        let kind = error.kind();
        let gone = matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        let (reason, message) = if let Some(words) = last_words.filter(|_| gone) {
            ("failed", format!("{name} ended: {words}"))
        } else if kind == io::ErrorKind::NotFound {
            let remedy = "`weft launch` starts weft, or `docker compose up -d` in the folder of its compose.yaml";
            ("not_running", format!("{name} is not running here, there is no socket {path}: {remedy}"))
        } else if kind == io::ErrorKind::ConnectionRefused {
            let remedy = format!(
                "`weft launch` starts weft; if it was not stopped, `docker compose logs {name}` says why it ended"
            );
            ("not_running", format!("{name} is not running, nobody serves {path}: {remedy}"))
        } else if kind == io::ErrorKind::PermissionDenied {
            let remedy = "add yourself to the socket's group, as for Docker (`sudo usermod -aG docker $USER`, then log in \
                          again), or use sudo";
            ("not_permitted", format!("this user may not open {path}: {remedy}"))
        } else {
            ("not_reachable", format!("{name} cannot be reached on {path}: {error}"))
        };
        Self::Away { reason, message }
    }

    /// Says that a service took longer than `patience`.
    #[must_use]
    pub fn no_answer(service: Service, patience: Duration) -> Self {
        let name = service.name();
        let message =
            format!("{name} did not answer within {} s: `docker compose logs {name}` may say why", patience.as_secs());
        Self::Away { reason: "no_answer", message }
    }

    /// Takes a service's own words.
    #[must_use]
    pub fn refused(service: Service, status: &Status) -> Self {
        let name = service.name();
        let text = status.message();
        if status.code() == Code::Unimplemented {
            let message =
                format!("{name} is of another version and does not know this: install the command of its version");
            return Self::Refused(message);
        }
        if text.is_empty() {
            return Self::Refused(format!("{name} failed without a reason ({:?})", status.code()));
        }
        Self::Refused(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_not_gone() {
        let away = |kind: io::ErrorKind| {
            ServiceError::away(Service::Router, Path::new("/run/weft/router.sock"), &kind.into(), None)
        };
        assert!(away(io::ErrorKind::NotFound).is_gone() && away(io::ErrorKind::ConnectionRefused).is_gone());
        let there = [
            away(io::ErrorKind::PermissionDenied),
            ServiceError::no_answer(Service::Router, Duration::from_secs(5)),
            ServiceError::Refused("no".to_owned()),
        ];
        assert!(there.iter().all(|error| !error.is_gone()), "{there:?}");
    }

    /// As root nothing is forbidden, so the kernel's answer is made up here.
    #[test]
    fn who_may_not_open_a_socket_learns_how_to() {
        let forbidden = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = ServiceError::away(Service::Router, Path::new("/run/weft/router.sock"), &forbidden, Some("x"));
        assert_eq!(error.reason(), "not_permitted");
        let text = error.to_string();
        for part in ["may not open /run/weft/router.sock", "usermod -aG docker", "sudo"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
