//! Weave Net's HTTP API, for scripts that ask its daemon: the core reads each request, the services are asked, and the answer
//! is written as Weave Net's was.
//!
//! Whoever reaches it may change the host's mesh, names and addresses, so only the loopback is listened on, and web pages are kept
//! out as they are from the Docker API.

mod addresses;
mod clients;
mod names;
mod pages;
mod peers;
mod reply;
mod server;
mod status;
pub mod template;

use std::{path::Path, sync::Arc};

use http::{HeaderMap, Method, StatusCode};
use weft_docker_proxy_core::weave_api::{Call, Request};
use weft_metrics::Exposition;
use weft_proto::client::Service;
use weft_service::HostMetrics;
use weft_types::ContainerId;

use self::{clients::Clients, reply::Reply};
use crate::{
    api::Api,
    attach::Attacher,
    local_clients::{Foreign, Names},
};

pub(crate) use pages::Pages;
pub(crate) use server::serve;

/// Largest page that the router is given, in bytes: the report of a large mesh.
pub(crate) const LARGEST_PAGE: usize = 64 << 20;

/// Shortest start of a container's id that is taken for it: what Docker prints.
const SHORT_ID: usize = 12;

/// Answers for this host.
#[derive(Debug)]
pub(crate) struct WeaveApi {
    clients: Clients,
    own: Arc<Api>,
    attacher: Attacher,
    metrics: HostMetrics,
    names: Names,
}

/// A request, as far as it matters.
#[derive(Debug, Clone, Copy)]
struct Question<'a> {
    method: &'a Method,
    /// Path and query.
    target: &'a str,
    headers: &'a HeaderMap,
    /// Body, if it is a form.
    form: &'a str,
}

impl WeaveApi {
    /// Makes one that asks the services whose sockets are in `folder`; clients know this host as `localhost`, by its loopback's
    /// addresses, or by `names`.
    pub(crate) fn new(
        folder: &Path,
        own: Arc<Api>,
        attacher: Attacher,
        exposition: Arc<Exposition>,
        names: Names,
    ) -> Self {
        Self {
            clients: Clients::new(folder),
            own,
            attacher,
            metrics: HostMetrics::new(Service::DockerProxy, exposition, folder),
            names: names.without_foreign_addresses(),
        }
    }

    async fn answer(&self, question: Question<'_>) -> Reply {
        if let Some(refusal) = self.refusal(question.headers) {
            return refusal;
        }
        match read(question) {
            Ok(call) => self.perform(call).await,
            Err(refusal) => refusal,
        }
    }

    /// Answers a question of which only the call's kind `is_allowed`.
    async fn answer_if(&self, question: Question<'_>, is_allowed: impl Fn(&Call) -> bool) -> Reply {
        if let Some(refusal) = self.refusal(question.headers) {
            return refusal;
        }
        match read(question) {
            Ok(call) if is_allowed(&call) => self.perform(call).await,
            Ok(_) => Reply::refused(StatusCode::NOT_FOUND, "this is not answered at this address"),
            Err(refusal) => refusal,
        }
    }

    /// Returns what is answered to those who may be web pages.
    fn refusal(&self, headers: &HeaderMap) -> Option<Reply> {
        let values = |name| headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
        let reason = match self.names.foreign(values)? {
            Foreign::Page(page) => format!(
                "this request is of a web page ({page}), which may not use Weave Net's HTTP API: it changes the host's network"
            ),
            Foreign::Host(host) => format!(
                "this request is for the host {host}, as those of web pages may be that had their name lead here: name the \
                 address, as in http://127.0.0.1:6784, or add the name to WEFT_DOCKER_PROXY_TCP_NAMES"
            ),
        };
        Some(Reply::refused(StatusCode::FORBIDDEN, &reason))
    }

    async fn perform(&self, call: Call) -> Reply {
        match call {
            Call::Status(about) => self.status(about).await,
            Call::Report(template) => self.report(template).await,
            Call::Metrics => Reply::metrics(self.metrics.text().await),
            Call::Connect { peers, replace } => self.connect(peers, replace).await,
            Call::Forget { peers } => self.forget(peers).await,
            Call::Domain => self.domain().await,
            Call::DnsAddress { port } => self.dns_address(port).await,
            Call::ProxyAddresses => self.proxy_addresses().await,
            Call::AddName { holder, address, name, check_alive } => {
                self.add_name(holder, address, name, check_alive).await
            }
            Call::RemoveNames { holder, address, name } => self.remove_names(holder, address, name).await,
            Call::ListNames => self.list_names().await,
            Call::Allocate { holder, subnet, check_alive } => self.allocate(holder, subnet, check_alive).await,
            Call::Lookup { holder, subnet } => self.lookup(holder, subnet).await,
            Call::Claim { holder, address, check_alive } => self.claim(holder, address, check_alive).await,
            Call::Free { holder, address } => self.free(holder, address).await,
            Call::ListAddresses => self.list_addresses().await,
            Call::Ring => self.ring().await,
            Call::DefaultSubnet => self.default_subnet().await,
            // Weave Net's was there for AWSVPC alone.
            Call::Tracker => Reply::text(String::new()),
            Call::Expose { address, masquerade } => self.expose(address, masquerade).await,
            Call::HandOver => self.hand_over().await,
            Call::TakeOver { peer } => self.take_over(peer).await,
        }
    }

    /// Returns the whole id of an attached container that is named by the start of it; what is none stays as it is.
    async fn whole(&self, holder: ContainerId) -> ContainerId {
        if holder.as_str().len() < SHORT_ID {
            return holder;
        }
        let views = self.attacher.driver.list().await;
        let mut found =
            views.into_iter().map(|view| view.container.id).filter(|id| id.as_str().starts_with(holder.as_str()));
        match (found.next(), found.next()) {
            (Some(id), None) => id,
            _ => holder,
        }
    }

    /// Tells whether the engine runs a container.
    async fn runs(&self, container: &ContainerId) -> Result<bool, Reply> {
        let found = self.attacher.engine.container(container.as_str()).await;
        let unknown = |error: anyhow::Error| Reply::refused(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}"));
        Ok(found.map_err(unknown)?.is_some_and(|container| container.pid.is_some()))
    }
}

fn read(question: Question<'_>) -> Result<Call, Reply> {
    let Question { method, target, headers, form } = question;
    let mut accepted = headers.get_all(http::header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let accepts_json = accepted.any(|value| {
        value.split(',').any(|range| range.split(';').next().is_some_and(|kind| kind.trim() == "application/json"))
    });
    Call::read(Request { method, target, accepts_json, form }).map_err(|refusal| {
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
        Reply::refused(status, &refusal.reason)
    })
}
