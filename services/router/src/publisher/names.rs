//! Which addresses names have, as dns tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};
use weft_proto::dns::v1::{WatchRequest, WatchResponse, name_service_client::NameServiceClient};

use super::Refused;

/// News that may wait.
const NEWS: usize = 64;

/// Pause before dns is asked again after it went away.
const RETRY: Duration = Duration::from_millis(500);

/// How long dns may take to tell.
const PATIENCE: Duration = Duration::from_secs(3);

/// Listens to dns. Of a name that is watched, what was heard last stays while dns is away.
#[derive(Debug)]
pub(super) struct Names {
    dns: Channel,
    told: BTreeMap<String, Told>,
    watched: BTreeMap<String, Watch>,
    news: mpsc::Sender<News>,
}

/// What dns says of a name: its addresses, or why it is none.
pub(super) type Told = Result<BTreeSet<IpAddr>, String>;

/// What was heard of a name.
pub(super) type News = (String, Told);

/// Listens until it is dropped.
#[derive(Debug)]
struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Names {
    /// Makes it, and what news come by.
    pub(super) fn new(dns: Channel) -> (Self, mpsc::Receiver<News>) {
        let (news, heard) = mpsc::channel(NEWS);
        (Self { dns, told: BTreeMap::new(), watched: BTreeMap::new(), news }, heard)
    }

    /// Watches these names and no others.
    pub(super) fn watch<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let names: BTreeSet<&str> = names.collect();
        self.watched.retain(|name, _| names.contains(name.as_str()));
        self.told.retain(|name, _| names.contains(name.as_str()));
        for name in names {
            if !self.watched.contains_key(name) {
                let task = tokio::spawn(follow(self.dns.clone(), name.to_owned(), self.news.clone()));
                self.watched.insert(name.to_owned(), Watch(task.abort_handle()));
            }
        }
    }

    /// Takes news in.
    pub(super) fn take_in(&mut self, (name, told): News) {
        // Meanwhile nobody may want to know any more.
        if self.watched.contains_key(&name) {
            self.told.insert(name, told);
        }
    }

    /// Returns what dns says of a name that is watched, once it has.
    pub(super) fn told(&self, name: &str) -> Option<&Told> {
        self.told.get(name)
    }
}

/// Asks for the addresses of any name.
///
/// # Errors
/// If it is none, or dns does not tell.
pub(super) async fn ask(dns: &Channel, name: &str) -> Result<BTreeSet<IpAddr>, Refused> {
    let mut client = NameServiceClient::new(dns.clone());
    let asked = async {
        let mut told = client.watch(WatchRequest { name: name.to_owned() }).await?.into_inner();
        told.message().await
    };
    match timeout(PATIENCE, asked).await {
        Ok(Ok(Some(told))) => Ok(read(&told)),
        Ok(Err(status)) if status.code() == Code::InvalidArgument => Err(Refused::Invalid(status.message().to_owned())),
        Ok(Err(status)) => Err(away(name, &status)),
        Ok(Ok(None)) | Err(_) => Err(Refused::NotNow(format!(
            "dns does not tell who has the name {name}: `weft status` says what it waits for"
        ))),
    }
}

fn away(name: &str, status: &Status) -> Refused {
    Refused::NotNow(format!(
        "who has the name {name} is not known, because dns does not answer ({}): `weft status` says why",
        status.message()
    ))
}

/// Tells what dns says of a name, for as long as somebody hears it.
async fn follow(dns: Channel, name: String, news: mpsc::Sender<News>) {
    let mut client = NameServiceClient::new(dns);
    let mut refused = None;
    loop {
        match client.watch(WatchRequest { name: name.clone() }).await {
            Ok(told) => {
                refused = None;
                let mut told = told.into_inner();
                while let Ok(Some(told)) = told.message().await {
                    if news.send((name.clone(), Ok(read(&told)))).await.is_err() {
                        return;
                    }
                }
            }
            Err(status) if status.code() == Code::InvalidArgument => {
                let why = Some(status.message().to_owned());
                if refused != why {
                    if news.send((name.clone(), Err(status.message().to_owned()))).await.is_err() {
                        return;
                    }
                    refused = why;
                }
            }
            // It is away.
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

fn read(told: &WatchResponse) -> BTreeSet<IpAddr> {
    told.addresses.iter().filter_map(|address| IpAddr::try_from(address).ok()).collect()
}
