//! `HostService`: the host's own addresses on the overlay.

use ipnet::{IpNet, Ipv4Net};
use tokio::sync::Mutex;
use tonic::{Code, Request, Response, Status};
use weft_proto::{
    convert::InvalidMessage,
    router::v1::{
        self as pb, ExposeRequest, ExposeResponse, HideRequest, HideResponse, ListExposedRequest, ListExposedResponse,
        host_service_server::HostService,
    },
};

use super::failed;
use crate::{
    driver::{Command, DriverHandle},
    exposed::{Exposed, Terms},
    kernel::Kernel,
};

/// Addresses in one request.
const MOST_ADDRESSES: usize = 64;
/// Names of one address.
const MOST_NAMES: usize = 64;
/// Longest name, in bytes (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 255;

/// Exposes and hides the host.
#[derive(Debug)]
pub struct Host {
    driver: DriverHandle,
    kernel: Kernel,
    /// What the kernel was told and what is remembered of it change together.
    changing: Mutex<()>,
}

impl Host {
    /// Makes the service.
    #[must_use]
    pub fn new(driver: DriverHandle, kernel: Kernel) -> Self {
        Self { driver, kernel, changing: Mutex::new(()) }
    }

    /// Makes all exposures those of `wanted`, or leaves them as they were.
    async fn change(&self, before: &Exposed, wanted: Exposed) -> Result<(), Status> {
        let Err(error) = self.set(wanted).await? else { return Ok(()) };
        if let Err(error) = self.set(before.clone()).await? {
            tracing::warn!(error = %format_args!("{error:#}"), "failed to take back what the host was exposed with");
        }
        Err(failed(Code::Internal, &error))
    }

    /// Has the kernel do as told, and has it remembered.
    async fn set(&self, exposed: Exposed) -> Result<anyhow::Result<()>, Status> {
        match self.kernel.set_exposed(exposed.exposures()).await {
            Ok(in_effect) => Ok(self.driver.ask(|reply| Command::SetExposed { exposed, in_effect, reply }).await?),
            Err(error) => Ok(Err(error)),
        }
    }
}

#[tonic::async_trait]
impl HostService for Host {
    async fn expose(&self, request: Request<ExposeRequest>) -> Result<Response<ExposeResponse>, Status> {
        let given = request.into_inner().exposed;
        if given.len() > MOST_ADDRESSES {
            let reason = format!("it has {}, and at most {MOST_ADDRESSES} can be exposed at a time", given.len());
            return Err(InvalidMessage::invalid("ExposeRequest.exposed", reason).into());
        }
        let given = given.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let _changing = self.changing.lock().await;
        let before = self.driver.ask(Command::Exposed).await?;
        let mut wanted = before.clone();
        for (address, terms) in &given {
            wanted.add(*address, terms.clone());
        }
        let exposed = given.iter().filter_map(|(address, _)| wanted.addresses.get_key_value(address)).map(message);
        let exposed = exposed.collect();
        self.change(&before, wanted).await?;
        Ok(Response::new(ExposeResponse { exposed }))
    }

    async fn hide(&self, request: Request<HideRequest>) -> Result<Response<HideResponse>, Status> {
        let given = request.into_inner().addresses;
        let given = given.iter().map(Ipv4Net::try_from).collect::<Result<Vec<_>, _>>()?;
        let _changing = self.changing.lock().await;
        let before = self.driver.ask(Command::Exposed).await?;
        let mut wanted = before.clone();
        let removed: Vec<_> = given.iter().filter_map(|address| wanted.addresses.remove_entry(address)).collect();
        if !removed.is_empty() {
            self.change(&before, wanted).await?;
        }
        Ok(Response::new(HideResponse {
            removed: removed.iter().map(|(address, terms)| message((address, terms))).collect(),
        }))
    }

    async fn list_exposed(&self, _: Request<ListExposedRequest>) -> Result<Response<ListExposedResponse>, Status> {
        let exposed = self.driver.ask(Command::Exposed).await?;
        Ok(Response::new(ListExposedResponse { exposed: exposed.addresses.iter().map(message).collect() }))
    }
}

fn read(exposed: &pb::Exposed) -> Result<(Ipv4Net, Terms), InvalidMessage> {
    let address = exposed.address.as_ref().ok_or(InvalidMessage::missing("Exposed.address"))?.try_into()?;
    let twin = match exposed.twin.as_ref().map(IpNet::try_from).transpose()? {
        Some(IpNet::V4(net)) => return Err(InvalidMessage::invalid("Exposed.twin", format!("{net} is not of IPv6"))),
        Some(IpNet::V6(net)) => Some(net),
        None => None,
    };
    if exposed.names.len() > MOST_NAMES || exposed.names.iter().any(|name| name.len() > LONGEST_NAME) {
        let reason = format!("an address has at most {MOST_NAMES} names of {LONGEST_NAME} bytes");
        return Err(InvalidMessage::invalid("Exposed.names", reason));
    }
    let names = exposed.names.iter().cloned().collect();
    Ok((address, Terms { twin, masquerade: exposed.masquerade, names }))
}

fn message((address, terms): (&Ipv4Net, &Terms)) -> pb::Exposed {
    pb::Exposed {
        address: Some((*address).into()),
        twin: terms.twin.map(Into::into),
        masquerade: terms.masquerade,
        names: terms.names.iter().cloned().collect(),
    }
}
