//! `status` and its subcommands.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use weft_proto::{
    client::Service,
    dns::v1::{self as dns, name_service_client::NameServiceClient},
    ipam::v1::{self as ipam, address_service_client::AddressServiceClient},
    proxy::v1::{self as proxy, container_service_client::ContainerServiceClient},
    router::v1::{
        self as router, Attachment, ListAttachmentsRequest, attachment_service_client::AttachmentServiceClient,
        peer_service_client::PeerServiceClient,
    },
};

use super::publish;
use crate::{
    Outcome,
    cli::StatusAbout,
    is_broken_pipe,
    output::Output,
    report::{Connections, Floating, Ipam, Names, PassedOn, Peers, Status, Targets},
    services::{PATIENCE, ServiceError, Services},
};

/// Largest answer that is read, in bytes: the peers of a large mesh, and their names.
const LARGEST_ANSWER: usize = 64 << 20;

/// Shows it again and again; returns when nobody reads any more.
pub(super) async fn watch(
    about: Option<StatusAbout>,
    seconds: u32,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let mut pause = interval(Duration::from_secs(seconds.into()));
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pause.tick().await;
        output.begin_screen();
        match status(about.clone(), services, output).await {
            Err(error) if !is_broken_pipe(&error) => {
                // An empty screen tells whether somebody still reads.
                output.write("")?;
                output.complain(&format!("weft: {error:#}"));
            }
            Err(error) => return Err(error),
            Ok(Outcome::Done | Outcome::Failed | Outcome::Running | Outcome::Ended(_)) => {}
        }
    }
}

pub(super) async fn status(
    about: Option<StatusAbout>,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    match about {
        None => return overview(services, output).await,
        Some(StatusAbout::Peers) => output.print(&Peers::new(&router(services).await?))?,
        Some(StatusAbout::Connections) => output.print(&Connections::new(&router(services).await?))?,
        Some(StatusAbout::Targets) => output.print(&Targets::new(&router(services).await?))?,
        Some(StatusAbout::Services) => output.print(&passed_on(services).await?)?,
        Some(StatusAbout::Dns) => {
            let (status, records) = tokio::try_join!(dns(services), records(services))?;
            output.print(&Names::new(&status.zone, &records.records))?;
        }
        Some(StatusAbout::Ipam) => {
            // Who we are is the router's to say; without it the list is only not ordered by it.
            let (status, router) = tokio::join!(ipam(services), router(services));
            let local = router.ok().and_then(|router| router.peer_name);
            output.print(&Ipam::new(&status?, local.as_ref()))?;
        }
    }
    Ok(Outcome::Done)
}

async fn overview(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let status = all(services, output.is_weave()).await;
    output.print(&status)?;
    Ok(if status.is_whole() { Outcome::Done } else { Outcome::Failed })
}

/// Asks all services; not for what Weave Net's users do not know, where they ask.
async fn all(services: &Services, as_weave: bool) -> Status {
    let floating = async {
        let attachments = if as_weave { return None } else { attachments(services).await };
        attachments.ok().map(|attachments| Floating::new(&attachments))
    };
    let (router, passed_on, floating, ipam, dns, proxy) =
        tokio::join!(router(services), passed_on(services), floating, ipam(services), dns(services), proxy(services));
    Status::new(&router, &ipam, &dns, &proxy).with_services(passed_on.as_ref().ok()).with_floating(floating)
}

/// Asks for what is published and imported, as long as for any status.
pub(crate) async fn passed_on(services: &Services) -> Result<PassedOn, ServiceError> {
    let asked = timeout(PATIENCE, publish::list(services)).await;
    asked.unwrap_or_else(|_| Err(ServiceError::no_answer(Service::Router, PATIENCE)))
}

pub(crate) async fn router(services: &Services) -> Result<router::GetStatusResponse, ServiceError> {
    let call = |channel| async {
        let mut client = PeerServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
        client.get_status(router::GetStatusRequest {}).await
    };
    services.ask(Service::Router, call).await
}

/// Asks what the router has attached, the host itself among it.
pub(super) async fn attachments(services: &Services) -> Result<Vec<Attachment>, ServiceError> {
    let call = |channel| async {
        let mut client = AttachmentServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
        client.list_attachments(ListAttachmentsRequest {}).await
    };
    services.ask(Service::Router, call).await.map(|listed| listed.attachments)
}

pub(super) async fn ipam(services: &Services) -> Result<ipam::GetStatusResponse, ServiceError> {
    let call = |channel| async { AddressServiceClient::new(channel).get_status(ipam::GetStatusRequest {}).await };
    services.ask(Service::Ipam, call).await
}

pub(crate) async fn dns(services: &Services) -> Result<dns::GetStatusResponse, ServiceError> {
    let call = |channel| async { NameServiceClient::new(channel).get_status(dns::GetStatusRequest {}).await };
    services.ask(Service::Dns, call).await
}

pub(crate) async fn records(services: &Services) -> Result<dns::ListRecordsResponse, ServiceError> {
    let call = |channel| async {
        let mut client = NameServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
        client.list_records(dns::ListRecordsRequest {}).await
    };
    services.ask(Service::Dns, call).await
}

pub(super) async fn proxy(services: &Services) -> Result<proxy::GetStatusResponse, ServiceError> {
    let call = |channel| async { ContainerServiceClient::new(channel).get_status(proxy::GetStatusRequest {}).await };
    services.ask(Service::DockerProxy, call).await
}
