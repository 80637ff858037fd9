//! `prime`: waiting for the address ring.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};
use weft_proto::ipam::v1::RingState;

use super::status;
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
    let _wait = output.progress().wait("waiting for an address ring");
    let began = Instant::now();
    let mut told = false;
    let ring_id = loop {
        let waits_for = match status::ipam(services).await {
            Ok(status) if status.state() == RingState::Ready => break status.ring_id,
            Ok(status) => format!(
                "its state is: {}; `weft status targets` says which of the hosts that it was given are not reached, and why",
                IpamSection::from(&status).state
            ),
            Err(error) if may_come(&error) => {
                // Who waits without a limit would never learn of it.
                if timeout.is_none() && !std::mem::replace(&mut told, true) {
                    output.complain(&format!("weft: waiting for ipam: {error}"));
                }
                error.to_string()
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(seconds) = timeout.filter(|seconds| began.elapsed() >= Duration::from_secs((*seconds).into())) {
            bail!("this host has no address ring after {seconds} s: {waits_for}");
        }
        sleep(INTERVAL).await;
    };
    output.print(&Primed::new(&ring_id))?;
    Ok(Outcome::Done)
}

/// Tells whether a service that cannot be asked may be there a moment later: services start, and start anew.
fn may_come(error: &ServiceError) -> bool {
    matches!(error, ServiceError::Away { reason, .. } if *reason != "not_permitted")
}
