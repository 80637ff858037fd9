//! `/status`, `/report`, `/proxyaddrs`: the words of the command.

use std::fmt::Display;

use http::StatusCode;
use tonic::Request;
use weft_docker_proxy_core::weave_api::About;
use weft_proto::{
    client::Service,
    proxy::v1::{GetStatusRequest, GetStatusResponse, container_service_server::ContainerService},
};
use weft_report::{Answers, Connections, Ipam, Names, Peers, ServiceError, Status, Targets, WeaveReport};

use super::{WeaveApi, clients::Failure, reply::Reply, template};

impl WeaveApi {
    pub(super) async fn status(&self, about: About) -> Reply {
        let shown = match about {
            About::All => return self.overview().await,
            About::Targets => self.clients.router().await.map(|router| text(&Targets::new(&router))),
            About::Connections => self.clients.router().await.map(|router| text(&Connections::new(&router))),
            About::Peers => self.clients.router().await.map(|router| text(&Peers::new(&router))),
            About::Dns => self.names().await,
            About::Ipam => self.shares().await,
        };
        shown.unwrap_or_else(Reply::from)
    }

    async fn overview(&self) -> Reply {
        let (router, passed_on, ipam, dns, proxy) = tokio::join!(
            self.clients.router(),
            self.clients.passed_on(),
            self.clients.ipam(),
            self.clients.dns(),
            self.proxy()
        );
        let (router, ipam, dns) =
            (router.map_err(Failure::into_error), ipam.map_err(Failure::into_error), dns.map_err(Failure::into_error));
        let status = Status::new(&router, &ipam, &dns, &proxy).with_services(passed_on.as_ref().ok());
        let reply = text(&status);
        if status.is_whole() { reply } else { reply.with(StatusCode::SERVICE_UNAVAILABLE) }
    }

    async fn names(&self) -> Result<Reply, Failure> {
        let (status, records) = tokio::try_join!(self.clients.dns(), self.clients.records())?;
        Ok(text(&Names::new(&status.zone, &records)))
    }

    async fn shares(&self) -> Result<Reply, Failure> {
        // Who we are is the router's to say; without it the list is only not ordered by it.
        let (status, router) = tokio::join!(self.clients.ipam(), self.clients.router());
        let local = router.ok().and_then(|router| router.peer_name);
        Ok(text(&Ipam::new(&status?, local.as_ref())))
    }

    /// Answers with all of it as JSON, or with what a template makes of it.
    pub(super) async fn report(&self, template: Option<String>) -> Reply {
        let (router, ipam, dns, records, proxy) = tokio::join!(
            self.clients.router(),
            self.clients.ipam(),
            self.clients.dns(),
            self.clients.records(),
            self.proxy()
        );
        let records = records.unwrap_or_default();
        let answers = Answers { router: router.ok(), ipam: ipam.ok(), dns: dns.ok(), records, proxy: proxy.ok() };
        let report = WeaveReport::new(&answers);
        match template {
            None => Reply::json(report.to_string()),
            Some(template) => match template::render(&template, &report).await {
                Ok(text) => Reply::text(text),
                Err(reason) => Reply::refused(StatusCode::BAD_REQUEST, &reason),
            },
        }
    }

    pub(super) async fn proxy_addresses(&self) -> Reply {
        match self.proxy().await {
            Ok(status) => {
                let lines = status.listeners.iter().map(|listener| format!("{}\n", listener.address));
                Reply::text(lines.collect())
            }
            Err(error) => Reply::refused(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        }
    }

    /// What this service says of itself.
    async fn proxy(&self) -> Result<GetStatusResponse, ServiceError> {
        let status = self.own.get_status(Request::new(GetStatusRequest {})).await;
        status.map(tonic::Response::into_inner).map_err(|status| ServiceError::refused(Service::DockerProxy, &status))
    }
}

fn text(shown: &impl Display) -> Reply {
    Reply::text(shown.to_string())
}
