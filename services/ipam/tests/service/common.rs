//! A router that speaks only the gossip contract, and ipam processes beside it.

use std::{
    collections::BTreeMap,
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::UnixListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server},
};
use weft_proto::{
    client::Service,
    common::v1 as common,
    ipam::v1::{self as ipam, address_service_client::AddressServiceClient},
    router::v1::{
        self as pb,
        gossip_service_server::{GossipService, GossipServiceServer},
        subscribe_response::Kind,
    },
};
use weft_types::PeerName;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
type Subscriber = mpsc::Sender<Result<pb::SubscribeResponse, Status>>;

#[derive(Default)]
struct Mesh {
    published: BTreeMap<PeerName, Entries>,
    subscribers: BTreeMap<PeerName, Subscriber>,
    /// Whom each peer was told to join.
    targets: BTreeMap<PeerName, Vec<PeerName>>,
}

/// The routers of a whole mesh, all of which reach each other at once.
#[derive(Clone, Default)]
pub(crate) struct Routers {
    mesh: Arc<Mutex<Mesh>>,
}

/// One of them, until it is dropped.
pub(crate) struct Router {
    task: tokio::task::JoinHandle<()>,
    mesh: Arc<Mutex<Mesh>>,
    peer: PeerName,
}

impl Drop for Router {
    fn drop(&mut self) {
        self.task.abort();
        let mut mesh = self.mesh.lock().expect("no test panicked");
        mesh.subscribers.remove(&self.peer);
        mesh.published.remove(&self.peer);
    }
}

impl Routers {
    /// Serves the router of `peer` in `folder`.
    pub(crate) fn start(&self, folder: &Path, peer: PeerName, targets: &[PeerName]) -> Router {
        self.mesh.lock().expect("no test panicked").targets.insert(peer, targets.to_vec());
        let socket = Service::Router.socket(folder);
        let _ = std::fs::remove_file(&socket);
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).expect("the socket can be bound"));
        std::fs::set_permissions(&socket, Permissions::from_mode(0o660)).expect("the socket is ours");
        let gossip = Gossip { mesh: self.mesh.clone(), peer };
        let task = tokio::spawn(async move {
            let server = Server::builder().add_service(GossipServiceServer::new(gossip));
            server.serve_with_incoming(incoming).await.expect("the fake router serves");
        });
        Router { task, mesh: self.mesh.clone(), peer }
    }

    /// Tells whether the ipam of `peer` follows its router.
    pub(crate) fn reached(&self, peer: PeerName) -> bool {
        self.mesh.lock().expect("no test panicked").subscribers.contains_key(&peer)
    }
}

struct Gossip {
    mesh: Arc<Mutex<Mesh>>,
    peer: PeerName,
}

impl Mesh {
    fn identities(&self) -> Vec<pb::PeerIdentity> {
        let identity = |peer: &PeerName| pb::PeerIdentity {
            peer_name: Some((*peer).into()),
            name: peer.to_string(),
            nickname: format!("host-{peer}"),
        };
        self.subscribers.keys().map(identity).collect()
    }

    fn tell(&self, to: PeerName, kind: Kind) {
        if let Some(subscriber) = self.subscribers.get(&to) {
            let _ = subscriber.try_send(Ok(pb::SubscribeResponse { kind: Some(kind) }));
        }
    }

    fn target_peers(&self, peer: PeerName) -> Vec<common::PeerName> {
        self.targets.get(&peer).into_iter().flatten().map(|target| (*target).into()).collect()
    }

    fn reachability(&self, peer: PeerName) -> pb::Reachability {
        let target_peers = self.target_peers(peer);
        pb::Reachability {
            reachable: self.identities(),
            target_count: target_peers.len() as u32,
            targets_given: !target_peers.is_empty(),
            target_peers,
        }
    }
}

fn entries(entries: &Entries) -> Vec<pb::Entry> {
    entries.iter().map(|(key, value)| pb::Entry { key: key.clone(), value: Some(value.clone()) }).collect()
}

#[tonic::async_trait]
impl GossipService for Gossip {
    type SubscribeStream = ReceiverStream<Result<pb::SubscribeResponse, Status>>;

    async fn publish(&self, request: Request<pb::PublishRequest>) -> Result<Response<pb::PublishResponse>, Status> {
        let request = request.into_inner();
        let mut mesh = self.mesh.lock().expect("no test panicked");
        let published = mesh.published.entry(self.peer).or_default();
        if request.snapshot {
            published.clear();
        }
        for entry in &request.entries {
            match &entry.value {
                Some(value) => drop(published.insert(entry.key.clone(), value.clone())),
                None => drop(published.remove(&entry.key)),
            }
        }
        for to in mesh.subscribers.keys().filter(|to| **to != self.peer) {
            let update = pb::ChannelUpdate {
                origin: Some(self.peer.into()),
                complete: request.snapshot,
                entries: request.entries.clone(),
            };
            mesh.tell(*to, Kind::Update(update));
        }
        Ok(Response::new(pb::PublishResponse {}))
    }

    async fn subscribe(&self, _: Request<pb::SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let (subscriber, stream) = mpsc::channel(1000);
        let mut mesh = self.mesh.lock().expect("no test panicked");
        mesh.subscribers.insert(self.peer, subscriber);
        let origins = mesh.published.iter().map(|(origin, published)| pb::OriginEntries {
            origin: Some((*origin).into()),
            entries: entries(published),
        });
        let now = mesh.reachability(self.peer);
        let snapshot = pb::ChannelSnapshot {
            local_peer: Some(self.peer.into()),
            origins: origins.collect(),
            reachable: now.reachable,
            target_count: now.target_count,
            targets_given: now.targets_given,
            target_peers: now.target_peers,
        };
        mesh.tell(self.peer, Kind::Snapshot(snapshot));
        for to in mesh.subscribers.keys().filter(|to| **to != self.peer) {
            mesh.tell(*to, Kind::Reachability(mesh.reachability(*to)));
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn send(&self, request: Request<pb::SendRequest>) -> Result<Response<pb::SendResponse>, Status> {
        let request = request.into_inner();
        let to = request.destination.and_then(|to| PeerName::try_from(&to).ok()).expect("a destination");
        let message = pb::IncomingMessage { source: Some(self.peer.into()), payload: request.payload };
        self.mesh.lock().expect("no test panicked").tell(to, Kind::Message(message));
        Ok(Response::new(pb::SendResponse {}))
    }
}

/// A host's folders.
pub(crate) struct Host {
    folder: tempfile::TempDir,
    /// Its key.
    pub(crate) peer: PeerName,
}

impl Host {
    /// Makes the host of that number.
    pub(crate) fn new(number: u8) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { folder, peer: PeerName::from_public_key([number; 32]) }
    }

    /// Returns where its sockets are.
    pub(crate) fn sockets(&self) -> &Path {
        self.folder.path()
    }

    /// Returns where its store is.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Returns the command that starts its ipam.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft-ipam"));
        command.arg("--socket-folder").arg(self.sockets()).arg("--state-folder").arg(self.state()).args(arguments);
        command
    }

    /// Starts its ipam as a process, and waits until it answers.
    pub(crate) async fn start(&self, arguments: &[&str]) -> Process {
        let child = self.command(arguments).stdin(Stdio::null()).spawn().expect("ipam can be started");
        let process = Process(child);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.client().get_status(ipam::GetStatusRequest {}).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "ipam does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        process
    }

    /// Returns a client of its ipam.
    pub(crate) fn client(&self) -> AddressServiceClient<Channel> {
        AddressServiceClient::new(weft_proto::client::channel(&Service::Ipam.socket(self.sockets())))
    }

    /// Allocates for a container, and returns both addresses as text.
    pub(crate) async fn allocate(&self, container: &str, subnet: Option<&str>) -> Result<(String, String), Status> {
        let subnet = subnet.map(|subnet| subnet.parse::<ipnet::Ipv4Net>().expect("valid").into());
        let request = ipam::AllocateRequest { container_id: container.into(), subnet, timeout_millis: 10_000 };
        let address = self.client().allocate(request).await?.into_inner().address.expect("an address");
        let text = |prefix: Option<common::IpPrefix>| {
            prefix.map(|prefix| ipnet::IpNet::try_from(&prefix).expect("valid").to_string()).unwrap_or_default()
        };
        Ok((text(address.v4), text(address.v6)))
    }
}

/// A process that is killed when it is no longer looked at.
pub(crate) struct Process(Child);

impl Process {
    /// Returns its id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Kill -9: what is tested is that nothing needs a clean end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
