//! `version`.

use weft_proto::{
    client::Service,
    dns::v1::{self as dns, name_service_client::NameServiceClient},
    ipam::v1::{self as ipam, address_service_client::AddressServiceClient},
    proxy::v1::{self as proxy, container_service_client::ContainerServiceClient},
    router::v1::{self as router, peer_service_client::PeerServiceClient},
};

use super::{elsewhere::ask, weave};
use crate::{
    Outcome,
    compose::Docker,
    output::Output,
    report::Versions,
    services::{ServiceError, Services},
};

pub(super) async fn version(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let ask = async |service: Service| -> Result<String, ServiceError> {
        match service {
            Service::Router => {
                let call =
                    |channel| async { PeerServiceClient::new(channel).get_status(router::GetStatusRequest {}).await };
                services.ask(service, call).await.map(|status| status.version)
            }
            Service::Ipam => {
                let call =
                    |channel| async { AddressServiceClient::new(channel).get_status(ipam::GetStatusRequest {}).await };
                services.ask(service, call).await.map(|status| status.version)
            }
            Service::Dns => {
                let call =
                    |channel| async { NameServiceClient::new(channel).get_status(dns::GetStatusRequest {}).await };
                services.ask(service, call).await.map(|status| status.version)
            }
            Service::DockerProxy => {
                let call = |channel| async {
                    ContainerServiceClient::new(channel).get_status(proxy::GetStatusRequest {}).await
                };
                services.ask(service, call).await.map(|status| status.version)
            }
        }
    };
    let [a, b, c, d] = Service::ALL;
    let asked = tokio::join!(ask(a), ask(b), ask(c), ask(d));
    let services = [(a, asked.0), (b, asked.1), (c, asked.2), (d, asked.3)];
    output.print(&Versions::new(services.map(|(service, version)| (service, version.map_err(|e| e.to_string())))))?;
    Ok(Outcome::Done)
}

/// Shows the version of this command, and those of the services at an engine elsewhere.
pub(super) async fn elsewhere(docker: &Docker, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let asked = ask(docker, &["version"]).await.map_err(|error| format!("{error:#}"));
    output.print(&Versions::new(Service::ALL.map(|service| {
        let said = asked.as_ref().map_err(Clone::clone).and_then(|said| {
            let services = said["services"].as_array().into_iter().flatten();
            let mut services = services.filter(|said| said["service"] == service.name());
            let said = services.next().ok_or("the command there does not know this service")?;
            let problem = || said["problem"].as_str().unwrap_or_default().to_owned();
            said["version"].as_str().map(str::to_owned).ok_or_else(problem)
        });
        (service, said)
    })))?;
    Ok(Outcome::Done)
}

/// Does the same in Weave Net's form.
pub(super) async fn as_weave(docker: &Docker, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let said = ask(docker, &["version"]).await.unwrap_or_default();
    let mut services = said["services"].as_array().into_iter().flatten();
    let router = services.find(|said| said["service"] == Service::Router.name());
    weave::print_versions(router.and_then(|said| said["version"].as_str()).map(str::to_owned), output)
}
