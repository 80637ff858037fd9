//! A router as dns sees it: gossip, and sockets for queries.

use std::{
    collections::BTreeMap,
    io::IoSlice,
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{
    net::{UnixListener, UnixStream},
    runtime::{Builder, Runtime},
    sync::mpsc,
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, transport::Server};
use weft_proto::router::v1::{
    ChannelSnapshot, ChannelUpdate, Entry, OriginEntries, PeerIdentity, PublishRequest, PublishResponse, Reachability,
    SendRequest, SendResponse, SubscribeRequest, SubscribeResponse,
    gossip_service_server::{GossipService, GossipServiceServer},
    subscribe_response::Kind,
};
use weft_types::PeerName;

pub(crate) const LOCAL: PeerName = PeerName::from_public_key([1; 32]);
pub(crate) const FRIEND: PeerName = PeerName::from_public_key([2; 32]);

type Origins = BTreeMap<PeerName, BTreeMap<Vec<u8>, Vec<u8>>>;

#[derive(Debug, Default)]
struct State {
    origins: Origins,
    reachable: Vec<PeerName>,
    subscribers: Vec<mpsc::Sender<Result<SubscribeResponse, Status>>>,
}

/// A running fake; stops when dropped.
pub(crate) struct Router {
    state: Arc<Mutex<State>>,
    /// Its own, so that dropping it breaks connections as the death of a process does.
    runtime: Option<Runtime>,
    folder: PathBuf,
    /// Where queries are asked.
    pub(crate) address: SocketAddr,
}

impl Drop for Router {
    fn drop(&mut self) {
        self.runtime.take().expect("dropped once").shutdown_background();
        for socket in ["router.sock", "dns-sockets.sock"] {
            std::fs::remove_file(self.folder.join(socket)).expect("the socket is there");
        }
    }
}

impl Router {
    /// Starts in `folder`, knowing nothing; `FRIEND` is reachable.
    pub(crate) fn start(folder: &Path) -> Self {
        let state = Arc::new(Mutex::new(State { reachable: vec![LOCAL, FRIEND], ..State::default() }));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let inside = runtime.enter();
        let listener = UnixListener::bind(folder.join("router.sock")).expect("the socket can be bound");
        let service = GossipServiceServer::new(Gossip(Arc::clone(&state)));
        runtime.spawn(async move {
            let incoming = UnixListenerStream::new(listener);
            Server::builder().add_service(service).serve_with_incoming(incoming).await.expect("the fake serves");
        });
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let address = udp.local_addr().expect("bound");
        let tcp = TcpListener::bind(address).expect("the port is free for TCP too");
        let listener = UnixListener::bind(folder.join("dns-sockets.sock")).expect("the socket can be bound");
        runtime.spawn(async move {
            let mut open = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                send(&stream, &udp, &tcp);
                open.push(stream);
            }
        });
        drop(inside);
        Self { state, runtime: Some(runtime), folder: folder.to_owned(), address }
    }

    /// Changes what an origin published.
    pub(crate) async fn update(&self, origin: PeerName, key: &str, value: Option<Vec<u8>>) {
        let key = key.as_bytes().to_vec();
        {
            let mut state = self.state.lock().expect("no panic");
            let entries = state.origins.entry(origin).or_default();
            match value.clone() {
                Some(value) => entries.insert(key.clone(), value),
                None => entries.remove(&key),
            };
        }
        let entries = vec![Entry { key, value }];
        let update = ChannelUpdate { origin: Some(origin.into()), complete: false, entries };
        self.tell(Kind::Update(update)).await;
    }

    /// Changes who is reachable.
    pub(crate) async fn reach(&self, peers: &[PeerName]) {
        self.state.lock().expect("no panic").reachable = peers.to_vec();
        let reachable = identities(peers);
        self.tell(Kind::Reachability(Reachability { reachable, ..Reachability::default() })).await;
    }

    /// Returns the keys of what this host published.
    pub(crate) fn published(&self) -> Vec<String> {
        let state = self.state.lock().expect("no panic");
        let own = state.origins.get(&LOCAL).into_iter().flatten();
        own.map(|(key, _)| String::from_utf8(key.clone()).expect("ids are text")).collect()
    }

    async fn tell(&self, kind: Kind) {
        let subscribers = self.state.lock().expect("no panic").subscribers.clone();
        for subscriber in subscribers {
            // Those of an earlier dns are gone.
            let _ = subscriber.send(Ok(SubscribeResponse { kind: Some(kind.clone()) })).await;
        }
    }
}

struct Gossip(Arc<Mutex<State>>);

#[tonic::async_trait]
impl GossipService for Gossip {
    type SubscribeStream = ReceiverStream<Result<SubscribeResponse, Status>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.channel, "names");
        let mut state = self.0.lock().expect("no panic");
        let own = state.origins.entry(LOCAL).or_default();
        if request.snapshot {
            own.clear();
        }
        for entry in request.entries {
            match entry.value {
                Some(value) => own.insert(entry.key, value),
                None => own.remove(&entry.key),
            };
        }
        Ok(Response::new(PublishResponse {}))
    }

    async fn subscribe(&self, _: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        let mut state = self.0.lock().expect("no panic");
        let origins = state.origins.iter().map(|(origin, entries)| OriginEntries {
            origin: Some((*origin).into()),
            entries: entries
                .iter()
                .map(|(key, value)| Entry { key: key.clone(), value: Some(value.clone()) })
                .collect(),
        });
        let snapshot = ChannelSnapshot {
            local_peer: Some(LOCAL.into()),
            origins: origins.collect(),
            reachable: identities(&state.reachable),
            ..ChannelSnapshot::default()
        };
        let first = SubscribeResponse { kind: Some(Kind::Snapshot(snapshot)) };
        sender.try_send(Ok(first)).expect("the queue is empty");
        state.subscribers.push(sender);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn send(&self, _: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        Err(Status::unimplemented("dns sends nothing"))
    }
}

fn identities(peers: &[PeerName]) -> Vec<PeerIdentity> {
    let identity = |peer: &PeerName| PeerIdentity {
        peer_name: Some((*peer).into()),
        name: peer.to_string(),
        nickname: "host".to_owned(),
    };
    peers.iter().map(identity).collect()
}

fn send(stream: &UnixStream, udp: &UdpSocket, tcp: &TcpListener) {
    let descriptors = [udp.as_fd(), tcp.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(stream, &[IoSlice::new(&[1])], &mut control, SendFlags::empty()).expect("dns takes the sockets");
}
