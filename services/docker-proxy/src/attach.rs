//! From a container of the engine to a goal of the workflow.

use std::time::Duration;

use ipnet::Ipv4Net;
use weft_docker_proxy_core::{AddressArgument, Container, Decision, eligibility, names, workflow::Goal};
use weft_types::ContainerId;

use crate::{
    config::Config,
    driver::{Attached, Driver},
    engine::Engine,
    starts::{Starting, Starts},
};

/// Attaches containers that the engine runs.
#[derive(Debug, Clone)]
pub struct Attacher {
    /// Who is asked about containers.
    pub engine: Engine,
    /// Who attaches.
    pub driver: Driver,
    /// The starts that clients wait for.
    pub starts: Starts,
    zone: String,
    patience: Duration,
}

impl Attacher {
    /// Makes one.
    #[must_use]
    pub fn new(config: &Config, engine: Engine, driver: Driver) -> Self {
        Self {
            engine,
            driver,
            starts: Starts::default(),
            zone: config.zone().to_owned(),
            patience: config.attach_deadline(),
        }
    }

    /// Returns how long a client waits for a container's network.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.patience
    }

    /// Returns what weft is to do about a container that exists.
    #[must_use]
    pub fn decide(&self, container: &Container) -> Decision {
        eligibility::of_container(container)
    }

    /// Returns what a running container is to have; nothing if it does not run or is none of weft's.
    #[must_use]
    pub fn goal(&self, container: &Container) -> Option<Goal> {
        match (self.decide(container), container.pid) {
            (Decision::Attach { addresses }, Some(pid)) => {
                let names = self.names(container);
                Some(Goal { pid, addresses, names, unhealthy: container.unhealthy })
            }
            (Decision::Attach { .. } | Decision::LeaveAlone { .. } | Decision::Refuse { .. }, _) => None,
        }
    }

    /// Returns the names of a container.
    #[must_use]
    pub fn names(&self, container: &Container) -> Vec<String> {
        names::of_container(container, &self.zone)
    }

    /// Sees to it that a container that just started has its network; waits for it. No addresses: it has ended meanwhile.
    ///
    /// # Errors
    /// One sentence that says why it has none.
    pub async fn started(&self, id: &ContainerId, starting: Starting) -> Attached {
        let container = self.engine.container(id.as_str()).await.map_err(|error| format!("{error:#}"))?;
        let Some(container) = container else {
            self.driver.removed(id.clone()).await;
            return Ok(Vec::new());
        };
        let attached = match self.goal(&container) {
            Some(goal) => self.driver.start(container, goal, self.patience).await,
            None => {
                self.driver.died(id.clone(), container.pid).await;
                Ok(Vec::new())
            }
        };
        starting.done();
        attached
    }

    /// Sees to it that a running container that was attached by hand, and holds these addresses, has them.
    pub async fn adopt(&self, container: Container, addresses: Vec<Ipv4Net>) {
        let Some(pid) = container.pid.filter(|_| !addresses.is_empty()) else { return };
        let addresses = addresses.into_iter().map(AddressArgument::Given).collect();
        let goal = Goal { pid, addresses, names: self.names(&container), unhealthy: container.unhealthy };
        self.driver.adopt(container, goal).await;
    }

    /// Sees to it that a running container has its network, now or later.
    pub async fn keep(&self, container: Container) {
        if let Some(goal) = self.goal(&container) {
            self.driver.keep_started(container, goal).await;
        }
    }
}
