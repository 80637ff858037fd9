//! `prime`: waiting for the address ring.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};
use weft_proto::{
    client::Service,
    ipam::v1::{GetStatusRequest, GetStatusResponse, RingState, address_service_client::AddressServiceClient},
};

use crate::{
    Outcome,
    output::Output,
    report::{IpamSection, Primed},
    services::{ServiceError, Services},
};

/// Pause between two questions.
const INTERVAL: Duration = Duration::from_millis(200);

pub(super) async fn prime(
    timeout: Option<u32>,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let status = loop {
        let status = ask(services).await?;
        if status.state() == RingState::Ready {
            break status;
        }
        if let Some(seconds) = timeout.filter(|seconds| began.elapsed() >= Duration::from_secs((*seconds).into())) {
            let state = IpamSection::from(&status).state;
            bail!(
                "this host has no address ring after {seconds} s, its state is: {state}; `weft status targets` says \
                 which of the hosts that it was given are not reached, and why"
            );
        }
        sleep(INTERVAL).await;
    };
    output.print(&Primed::new(&status.ring_id))?;
    Ok(Outcome::Done)
}

async fn ask(services: &Services) -> Result<GetStatusResponse, ServiceError> {
    let call = |channel| async { AddressServiceClient::new(channel).get_status(GetStatusRequest {}).await };
    services.ask(Service::Ipam, call).await
}
