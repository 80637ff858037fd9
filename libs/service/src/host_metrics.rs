//! Metrics of all services of a host, merged.

use std::{path::Path, sync::Arc, time::Duration};

use futures::future::{join, join_all};
use tokio::time::timeout;
use tonic::transport::Channel;
use weft_metrics::{Exposition, MetricFamily, Sheet, merge, shared};
use weft_proto::client::{Service, channel};

use crate::fetch_metrics;

/// How long a service may take for its part; without it the scrape says that the service is down.
const PATIENCE: Duration = Duration::from_secs(1);

/// What Prometheus reads.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Joins the metrics of all services of a host.
#[derive(Debug)]
pub struct HostMetrics {
    local: Service,
    own: Arc<Exposition>,
    others: Vec<(Service, Channel)>,
}

impl HostMetrics {
    /// Joins the metrics of the service `local`, which is this process, with those of the services whose sockets are in `folder`.
    #[must_use]
    pub fn new(local: Service, own: Arc<Exposition>, folder: &Path) -> Self {
        let others = Service::ALL.into_iter().filter(|service| *service != local);
        let others = others.map(|service| (service, channel(&service.socket(folder)))).collect();
        Self { local, own, others }
    }

    /// Returns them as Prometheus reads them.
    pub async fn text(&self) -> String {
        let others = self.others.iter().map(|(service, channel)| async move {
            let families = timeout(PATIENCE, fetch_metrics(channel.clone())).await;
            (*service, families.ok().and_then(Result::ok))
        });
        let (own, mut parts) = join(timeout(PATIENCE, self.own.render()), join_all(others)).await;
        parts.insert(0, (self.local, own.ok()));
        let mut up = Sheet::new(self.local.name());
        for (service, families) in &parts {
            up.set(&shared::UP, &[service.name()], if families.is_some() { 1.0 } else { 0.0 });
        }
        let families: Vec<Vec<MetricFamily>> = parts.into_iter().filter_map(|(_, families)| families).collect();
        merge(std::iter::once(up.into_families()).chain(families))
    }
}
