//! The gossip channel of the local router, followed for ever.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::{sync::mpsc, time::timeout};
use tonic::transport::Channel;
use weft_ipam_core::{CHANNEL, Entry, PeerInfo, Reachability, Transmit};
use weft_proto::{
    common::v1::PeerName as PeerNameMessage,
    router::v1::{self as pb, gossip_service_client::GossipServiceClient, subscribe_response::Kind},
};
use weft_service::Result;
use weft_types::PeerName;

/// What the router reports, in order.
#[derive(Debug)]
pub(crate) enum RouterEvent {
    /// It can be reached, and this is all there is. What goes to it goes into `outgoing` until `Disconnected`.
    Connected {
        local_peer: PeerName,
        origins: Vec<(PeerName, Vec<Entry>)>,
        reachability: Reachability,
        outgoing: mpsc::Sender<Transmit>,
    },
    Update {
        origin: PeerName,
        complete: bool,
        entries: Vec<Entry>,
    },
    Reachability(Reachability),
    Message {
        source: PeerName,
        payload: Vec<u8>,
    },
    Disconnected,
}

/// Events that wait to be looked at; when they are that many, the router is read no further.
const EVENTS: usize = 256;
/// What waits to be sent; when it is that much, the connection counts as broken.
const OUTGOING: usize = 1024;
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A router that takes longer for a call is treated as gone.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Follows the router that listens on `socket` until the receiver is dropped.
pub(crate) fn follow(socket: PathBuf) -> mpsc::Receiver<RouterEvent> {
    let (events, receiver) = mpsc::channel(EVENTS);
    tokio::spawn(async move {
        let mut pause = SHORTEST_PAUSE;
        let mut said = None;
        while !events.is_closed() {
            let client = GossipServiceClient::new(weft_proto::client::channel(&socket));
            let mut connected = false;
            let outcome = session(client, &events, &mut connected).await;
            if connected {
                pause = SHORTEST_PAUSE;
                if events.send(RouterEvent::Disconnected).await.is_err() {
                    return;
                }
            }
            if let Err(error) = outcome {
                let text = format!("{error:#}");
                if connected || said.as_ref() != Some(&text) {
                    tracing::info!(error = text, "the router cannot be reached, trying again");
                }
                said = Some(text);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
    receiver
}

/// Subscribes and passes on what comes, until something breaks.
async fn session(
    mut client: GossipServiceClient<Channel>,
    events: &mpsc::Sender<RouterEvent>,
    connected: &mut bool,
) -> Result {
    let request = pb::SubscribeRequest { channel: CHANNEL.into() };
    let subscribed = timeout(CALL_TIMEOUT, client.subscribe(request)).await.context("the router does not answer")?;
    let mut stream = subscribed.map_err(|status| anyhow!("{}", status.message()))?.into_inner();
    let first = timeout(CALL_TIMEOUT, stream.message()).await.context("the router does not send its snapshot")?;
    let Some(Kind::Snapshot(snapshot)) = first.context("the subscription broke")?.and_then(|first| first.kind) else {
        return Err(anyhow!("the router did not begin with a snapshot"));
    };
    let (outgoing, queued) = mpsc::channel(OUTGOING);
    let event = connected_event(snapshot, outgoing)?;
    *connected = true;
    if events.send(event).await.is_err() {
        return Ok(());
    }
    let mut sender = std::pin::pin!(send_all(client, queued));
    loop {
        let message = tokio::select! {
            message = stream.message() => message.context("the subscription broke")?,
            ended = &mut sender => return ended,
        };
        let Some(kind) = message.context("the router ended the subscription")?.kind else { continue };
        let event = match kind {
            Kind::Snapshot(_) => return Err(anyhow!("the router sent a second snapshot")),
            Kind::Update(update) => RouterEvent::Update {
                origin: peer(update.origin.as_ref())?,
                complete: update.complete,
                entries: entries(update.entries),
            },
            Kind::Reachability(now) => RouterEvent::Reachability(reachability(
                now.reachable,
                now.target_count,
                now.targets_given,
                &now.target_peers,
            )?),
            Kind::Message(message) => {
                RouterEvent::Message { source: peer(message.source.as_ref())?, payload: message.payload }
            }
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
}

/// Performs what is queued, in order, until the queue is closed or a publication fails.
async fn send_all(mut client: GossipServiceClient<Channel>, mut queued: mpsc::Receiver<Transmit>) -> Result {
    while let Some(transmit) = queued.recv().await {
        match transmit {
            Transmit::Publish { snapshot, entries } => {
                let entries =
                    entries.into_iter().map(|entry| pb::Entry { key: entry.key, value: entry.value }).collect();
                let request = pb::PublishRequest { channel: CHANNEL.into(), snapshot, entries };
                let published = timeout(CALL_TIMEOUT, client.publish(request)).await;
                published.context("the router does not answer")?.context("the router refused a publication")?;
            }
            Transmit::Send { peer, payload } => {
                let destination = Some(PeerNameMessage::from(peer));
                let request = pb::SendRequest { channel: CHANNEL.into(), destination, payload };
                let sent = timeout(CALL_TIMEOUT, client.send(request)).await.context("the router does not answer")?;
                // The core asks again, or asks somebody else.
                if let Err(status) = sent {
                    tracing::debug!(%peer, error = status.message(), "a message was not sent");
                }
            }
        }
    }
    Err(anyhow!("too much waited to be sent"))
}

fn connected_event(snapshot: pb::ChannelSnapshot, outgoing: mpsc::Sender<Transmit>) -> Result<RouterEvent> {
    let origins =
        snapshot.origins.into_iter().map(|origin| Ok((peer(origin.origin.as_ref())?, entries(origin.entries))));
    Ok(RouterEvent::Connected {
        local_peer: peer(snapshot.local_peer.as_ref())?,
        origins: origins.collect::<Result<_>>()?,
        reachability: reachability(
            snapshot.reachable,
            snapshot.target_count,
            snapshot.targets_given,
            &snapshot.target_peers,
        )?,
        outgoing,
    })
}

fn entries(entries: Vec<pb::Entry>) -> Vec<Entry> {
    entries.into_iter().map(|entry| Entry { key: entry.key, value: entry.value }).collect()
}

fn reachability(
    peers: Vec<pb::PeerIdentity>,
    target_count: u32,
    targets_given: bool,
    target_peers: &[PeerNameMessage],
) -> Result<Reachability> {
    let peers = peers.into_iter().map(|identity| {
        let peer = peer(identity.peer_name.as_ref())?;
        Ok(PeerInfo { peer, name: identity.name, nickname: identity.nickname })
    });
    let target_peers = target_peers.iter().map(|name| peer(Some(name)));
    Ok(Reachability {
        peers: peers.collect::<Result<_>>()?,
        target_count,
        targets_given,
        target_peers: target_peers.collect::<Result<_>>()?,
    })
}

fn peer(name: Option<&PeerNameMessage>) -> Result<PeerName> {
    PeerName::try_from(name.context("the router did not name a peer")?).context("the router named no peer")
}
