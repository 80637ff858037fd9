//! One connection: its handshake, then messages both ways until it ends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use weft_router_core::{
    handshake::{self, Handshake, HandshakeConfig, HandshakeError, Opener, PasswordPair, Sealer},
    mesh::{ConnectionId, ControlMessage, DialId, Problem},
    target::DialAddress,
};
use weft_types::PeerName;

use super::{Connected, ControlEvent, Direction, Item, OUTGOING, Outgoing, Shared, Stream, stream};

/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a write may wait for the other side.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes sealed into one write, beyond which no further message is added.
const WRITE_BATCH: usize = 64 * 1024;
/// The same for datagrams, behind which a message may have to wait.
const DATAGRAM_BATCH: usize = 16 * 1024;
/// Bytes read at once.
const READ_BUFFER: usize = 64 * 1024;

/// Why a handshake failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// For people.
    pub(super) problem: Problem,
    /// What the protocol said, if it was not the network.
    pub(super) error: Option<HandshakeError>,
    /// With which passwords a new connection may go better, where either side has two.
    pub(super) next_pair: Option<PasswordPair>,
}

/// A connection that we opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialled<'a> {
    pub(super) dial: DialId,
    pub(super) address: &'a DialAddress,
    pub(super) pair: PasswordPair,
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub(super) struct Established {
    shared: Arc<Shared>,
    stream: TcpStream,
    sealer: Sealer,
    opener: Opener,
    connected: Box<Connected>,
    queue: mpsc::Receiver<Item>,
    datagrams: mpsc::Receiver<Vec<u8>>,
}

/// Runs the handshake of a new connection, with `dialled` if it is ours.
pub(super) async fn shake_hands(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    remote: SocketAddr,
    dialled: Option<Dialled<'_>>,
) -> Result<Established, Failure> {
    let name = dialled.map_or_else(|| remote.ip().to_string(), |dialled| dialled.address.to_string());
    let network = |error: &str| Failure {
        problem: Problem {
            reason: "handshake_failed",
            message: format!("the connection with {name} broke during the handshake ({error}): it is tried again"),
            is_final: false,
        },
        error: None,
        next_pair: None,
    };
    stream.set_nodelay(true).map_err(|error| network(&error.to_string()))?;
    stream::limit_unsent(&stream).map_err(|error| network(&error.to_string()))?;
    let deadline = Instant::now() + HANDSHAKE_DEADLINE;
    let late = |_| network("no answer within 10 s");
    if dialled.is_none() {
        // Who says nothing costs a socket, and asks the driver nothing.
        let said = timeout_at(deadline, stream.peek(&mut [0])).await.map_err(late)?;
        said.map_err(|error| network(&error.to_string()))?;
    }
    let local_random = crate::entropy::number();
    let (reply, introduction) = oneshot::channel();
    let ask = ControlEvent::Introduce { random: local_random, remote, reply };
    shared.events.send(ask).await.map_err(|_| network("weft is stopping"))?;
    let introduction = introduction.await.map_err(|_| network("weft is stopping"))?;
    let config = HandshakeConfig { key: shared.key.clone(), passwords: shared.passwords(), introduction };
    let handshake = match dialled {
        Some(dialled) => Handshake::initiator(config, dialled.pair, crate::entropy::secret()),
        None => Handshake::responder(config, crate::entropy::secret()),
    };
    let outcome = timeout_at(deadline, exchange(handshake, &mut stream)).await.map_err(late)?;
    let established = match outcome {
        Err(Trouble::Network(error)) => return Err(network(&error.to_string())),
        Err(Trouble::Protocol(error, next_pair)) => {
            let problem = Problem {
                reason: error.reason(),
                message: error.sentence(&name),
                is_final: match &error {
                    HandshakeError::WrongPassword
                    | HandshakeError::PasswordMissingThere
                    | HandshakeError::PasswordMissingHere
                    | HandshakeError::ProtocolVersion { .. } => true,
                    HandshakeError::NotWeft | HandshakeError::Busy | HandshakeError::Damaged { .. } => false,
                },
            };
            return Err(Failure { problem, error: Some(error), next_pair });
        }
        Ok(established) => established,
    };
    let handshake::Established { peer, introduction, password, sealer, opener } = established;
    let (sender, queue) = mpsc::channel(OUTGOING);
    let (datagram_sender, datagrams) = Stream::new();
    let connected = Box::new(Connected {
        connection: shared.next_connection(),
        peer,
        introduction,
        local_random,
        remote,
        dial: dialled.map(|dialled| dialled.dial),
        password,
        outgoing: Outgoing { queue: sender },
        stream: datagram_sender,
    });
    Ok(Established { shared: Arc::clone(shared), stream, sealer, opener, connected, queue, datagrams })
}

enum Trouble {
    Network(std::io::Error),
    Protocol(HandshakeError, Option<PasswordPair>),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Network(error)
    }
}

async fn exchange(mut handshake: Handshake, stream: &mut TcpStream) -> Result<handshake::Established, Trouble> {
    let mut buffer = [0; 4096];
    loop {
        while let Some(bytes) = handshake.poll_output() {
            stream.write_all(&bytes).await?;
        }
        if let Some(established) = handshake.poll_established() {
            return Ok(established);
        }
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        if let Err(error) = handshake.handle_input(&buffer[..length]) {
            refuse(&mut handshake, stream).await;
            let next_pair = handshake.next_pair().filter(|_| error == HandshakeError::WrongPassword);
            return Err(Trouble::Protocol(error, next_pair));
        }
    }
}

/// Says why there will be no session. Who is gone by then, or takes no bytes, has failed for the same reason.
async fn refuse(handshake: &mut Handshake, stream: &mut TcpStream) {
    while let Some(bytes) = handshake.poll_output() {
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // Closing a socket with unread bytes would reset it, and the other side might miss the refusal.
    let _ = stream.shutdown().await;
}

impl Established {
    /// Reports the connection and moves messages until it ends.
    pub(super) async fn run(self) {
        let Self { shared, stream, sealer, opener, connected, queue, datagrams } = self;
        let (connection, peer) = (connected.connection, connected.peer);
        if shared.events.send(ControlEvent::Connected(connected)).await.is_err() {
            return;
        }
        let (reader, writer) = stream.into_split();
        let ended = tokio::select! {
            ended = read(&shared, (connection, peer), reader, opener) => ended,
            ended = write(&shared, connection, writer, sealer, queue, datagrams) => ended,
        };
        let problem = ended.err().map(|message| Problem { reason: "connection_lost", message, is_final: false });
        // An error means that the process is ending.
        let _ = shared.events.send(ControlEvent::Closed { connection, problem }).await;
    }
}

async fn read(
    shared: &Shared,
    (connection, peer): (ConnectionId, PeerName),
    mut reader: OwnedReadHalf,
    mut opener: Opener,
) -> Result<(), String> {
    let mut buffer = vec![0; READ_BUFFER];
    loop {
        while let Some(message) = opener.poll_message().map_err(|error| error.to_string())? {
            let length = message.len();
            let message = ControlMessage::decode(&message);
            if let Ok(message) = &message {
                shared.traffic.add(Direction::Received, message, length);
            }
            if let Ok(ControlMessage::Datagram(datagram)) = message {
                shared.datagrams.take(peer, datagram);
                continue;
            }
            let event = ControlEvent::Message { connection, message };
            if shared.events.send(event).await.is_err() {
                return Ok(());
            }
        }
        let length = reader.read(&mut buffer).await.map_err(|error| error.to_string())?;
        if length == 0 {
            return Ok(());
        }
        opener.handle_input(&buffer[..length]);
    }
}

async fn write(
    shared: &Shared,
    connection: ConnectionId,
    mut writer: OwnedWriteHalf,
    mut sealer: Sealer,
    mut queue: mpsc::Receiver<Item>,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
) -> Result<(), String> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let mut next = tokio::select! {
            biased;
            item = queue.recv() => item,
            Some(datagram) = datagrams.recv() => {
                seal_datagrams(shared, datagram, &mut datagrams, &mut sealer, &mut bytes)?;
                put(&mut writer, &bytes).await?;
                continue;
            }
        };
        let mut count = 0;
        let mut closing = false;
        loop {
            let message = match next {
                Some(Item::Message(message)) => {
                    count += 1;
                    *message
                }
                Some(Item::Close(Some(goodbye))) => {
                    closing = true;
                    ControlMessage::Goodbye(goodbye)
                }
                Some(Item::Close(None)) | None => {
                    closing = true;
                    break;
                }
            };
            let encoded = message.encode();
            shared.traffic.add(Direction::Sent, &message, encoded.len());
            sealer.seal(&encoded, &mut bytes).map_err(|error| error.to_string())?;
            if closing || bytes.len() >= WRITE_BATCH {
                break;
            }
            match queue.try_recv() {
                Ok(item) => next = Some(item),
                Err(_) => break,
            }
        }
        put(&mut writer, &bytes).await?;
        if closing {
            // The other side may be gone already; there is nothing more to say.
            let _ = writer.shutdown().await;
            return Ok(());
        }
        if shared.events.send(ControlEvent::Transmitted { connection, count }).await.is_err() {
            return Ok(());
        }
    }
}

/// Seals a datagram, and as many of those that wait behind it as one write takes.
fn seal_datagrams(
    shared: &Shared,
    first: Vec<u8>,
    waiting: &mut mpsc::Receiver<Vec<u8>>,
    sealer: &mut Sealer,
    bytes: &mut Vec<u8>,
) -> Result<(), String> {
    let mut next = Some(first);
    while let Some(datagram) = next {
        let message = ControlMessage::Datagram(datagram.into());
        let encoded = message.encode();
        shared.traffic.add(Direction::Sent, &message, encoded.len());
        sealer.seal(&encoded, bytes).map_err(|error| error.to_string())?;
        next = if bytes.len() < DATAGRAM_BATCH { waiting.try_recv().ok() } else { None };
    }
    Ok(())
}

async fn put(writer: &mut OwnedWriteHalf, bytes: &[u8]) -> Result<(), String> {
    timeout(WRITE_DEADLINE, writer.write_all(bytes))
        .await
        .map_err(|_| "the other side takes no data".to_owned())?
        .map_err(|error| error.to_string())
}
