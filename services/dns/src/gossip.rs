//! Follows and feeds the gossip channel `names`.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::transport::Channel;
use weft_proto::router::v1::{
    PublishRequest, SubscribeRequest, SubscribeResponse, gossip_service_client::GossipServiceClient,
    subscribe_response::Kind,
};
use weft_service::Result;
use weft_types::PeerName;

use crate::{convert, kept, problems::Part, state::State};

const CHANNEL: &str = "names";

/// Waiting times between two tries to reach the router.
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(2);

/// How long the router may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Largest message taken from the router: a snapshot of a large mesh's names.
const MAX_MESSAGE: usize = 64 << 20;

/// Keeps the names equal to what the mesh says, and the mesh told of ours. Never returns.
pub(crate) async fn follow(state: Arc<State>, router: Channel) {
    let mut client = GossipServiceClient::new(router.clone()).max_decoding_message_size(MAX_MESSAGE);
    let mut wait = *RETRY.start();
    loop {
        let began = Instant::now();
        let error = match subscribe(&state, &mut client, &router).await {
            Ok(stream) => stream.run().await.err(),
            Err(error) => Some(error),
        };
        if began.elapsed() > *RETRY.end() {
            wait = *RETRY.start();
        }
        state.write(|names| names.handle_unsubscribed());
        let why = error.map_or_else(|| "the router ended the subscription".to_owned(), |error| format!("{error:#}"));
        let message = format!("names of other hosts may be out of date, because the router does not send them: {why}");
        state.problems.set(Part::Gossip, message);
        sleep(wait).await;
        state.write(|names| names.handle_timeout(Instant::now().into_std()));
        wait = (wait * 2).min(*RETRY.end());
    }
}

struct Subscription<'a> {
    state: &'a State,
    client: &'a mut GossipServiceClient<Channel>,
    stream: tonic::Streaming<SubscribeResponse>,
}

/// Subscribes and takes in the snapshot, and the names that the host itself has.
async fn subscribe<'a>(
    state: &'a State,
    client: &'a mut GossipServiceClient<Channel>,
    router: &Channel,
) -> Result<Subscription<'a>> {
    let request = SubscribeRequest { channel: CHANNEL.to_owned() };
    let (stream, first) = timeout(PATIENCE, async {
        let mut stream = client.subscribe(request).await?.into_inner();
        let first = stream.message().await?;
        Ok::<_, tonic::Status>((stream, first))
    })
    .await
    .context("no answer within 5 s")?
    .map_err(readable)?;
    let Some(Kind::Snapshot(snapshot)) = first.and_then(|message| message.kind) else {
        bail!("the subscription does not start with a snapshot");
    };
    let zone = state.read(|names| names.zone().clone());
    let snapshot = convert::snapshot(&zone, &snapshot)?;
    state.write(|names| names.handle_snapshot(snapshot, Instant::now().into_std()));
    kept::restore(state, router.clone()).await?;
    Ok(Subscription { state, client, stream })
}

impl Subscription<'_> {
    async fn run(mut self) -> Result {
        let zone = self.state.read(|names| names.zone().clone());
        self.publish().await?;
        self.state.set_subscribed();
        self.state.problems.clear(Part::Gossip);
        loop {
            let timer = self.state.read(|names| names.poll_timeout());
            let timer = async move {
                match timer {
                    Some((at, _reason)) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.stream.message() => {
                    let Some(message) = message.map_err(readable)? else { return Ok(()) };
                    self.handle(&zone, message)?;
                }
                () = self.state.changed.notified() => {}
                () = timer => self.state.write(|names| names.handle_timeout(Instant::now().into_std())),
            }
            self.publish().await?;
        }
    }

    fn handle(&self, zone: &weft_dns_core::Zone, message: SubscribeResponse) -> Result {
        match message.kind {
            Some(Kind::Snapshot(snapshot)) => {
                let snapshot = convert::snapshot(zone, &snapshot)?;
                self.state.write(|names| names.handle_snapshot(snapshot, Instant::now().into_std()));
            }
            Some(Kind::Update(update)) => {
                let Some(Ok(origin)) = update.origin.as_ref().map(PeerName::try_from) else { return Ok(()) };
                let entries = convert::entries(zone, &update.entries);
                self.state.write(|names| names.handle_change(origin, update.complete, entries));
            }
            Some(Kind::Reachability(reachability)) => {
                let reachable = convert::reachable(&reachability.reachable);
                self.state.write(|names| names.handle_reachable(reachable));
            }
            // Nobody sends messages on this channel; a later version may.
            Some(Kind::Message(_)) | None => {}
        }
        Ok(())
    }

    /// Publishes what the mesh does not know yet.
    async fn publish(&mut self) -> Result {
        while let Some(publication) = self.state.write(|names| names.poll_publication()) {
            let entries =
                publication.entries.iter().map(|(container, record)| convert::entry(container, record.as_ref()));
            let request = PublishRequest {
                channel: CHANNEL.to_owned(),
                snapshot: publication.complete,
                entries: entries.collect(),
            };
            let published = timeout(PATIENCE, self.client.publish(request)).await;
            let published = published.context("publishing names took longer than 5 s");
            if let Err(error) = published.and_then(|answer| answer.map_err(readable)) {
                self.state.write(|names| names.handle_unpublished());
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Says in one clause what a call failed of.
fn readable(status: tonic::Status) -> anyhow::Error {
    if status.code() == tonic::Code::Unavailable {
        anyhow::anyhow!("the router does not answer on its socket")
    } else {
        anyhow::anyhow!("{} ({:?})", status.message(), status.code())
    }
}
