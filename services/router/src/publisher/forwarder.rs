//! Listens on a published port, and hands on what the kernel does not lead to a container: what comes to the loopback, or by a
//! family that the host does not route, and connections that have to begin with a header.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, interval, sleep, timeout},
};

use super::asked::{self, Asked};
use crate::{
    entropy,
    published::{HostPort, Protocol},
};

/// Connections of a port that are handed on at a time; who comes then waits.
const MOST_CONNECTIONS: usize = 1024;

/// Clients of a port, by datagrams, that are known at a time; those of others are dropped.
const MOST_CLIENTS: usize = 1024;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// How long a container may take to accept a connection.
const ACCEPTING: Duration = Duration::from_secs(2);

/// Containers that are tried for one connection.
const TRIES: usize = 5;

/// Pause after a connection could not be accepted, for lack of descriptors most often.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may be silent before the other end is asked for a sign of life, and then between questions.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));

/// How long a client by datagrams is known without any; as long as the kernel knows connections of UDP that were answered
/// (`nf_conntrack_udp_timeout_stream`).
const IDLE: Duration = Duration::from_secs(120);

/// How often those are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// Largest datagram, in bytes.
const DATAGRAM: usize = 65_535;

/// Who gets what comes, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Leads {
    /// Containers, by address and port.
    pub(super) backends: Vec<SocketAddr>,
    /// Connections begin with a header.
    pub(super) proxy_protocol: bool,
}

/// Holds a port, and hands on until it is dropped.
#[derive(Debug)]
pub(super) struct Forwarder {
    leads: watch::Sender<Leads>,
    task: AbortHandle,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarder {
    /// Takes the port.
    ///
    /// # Errors
    /// What the kernel says: somebody else has it, most often.
    pub(super) fn start(port: HostPort) -> io::Result<Self> {
        let socket = bind(port)?;
        let (sender, leads) = watch::channel(Leads::default());
        let task = match port.protocol {
            Protocol::Tcp => {
                let listener = TcpListener::from_std(socket.into())?;
                tokio::spawn(connections(listener, leads))
            }
            Protocol::Udp => {
                asked::tell(&socket, port.address)?;
                let socket = UdpSocket::from_std(socket.into())?;
                tokio::spawn(datagrams(Arc::new(socket), leads))
            }
        };
        Ok(Self { leads: sender, task: task.abort_handle() })
    }

    /// Says who gets what comes from now on. What is handed on stays with who has it.
    pub(super) fn lead(&self, leads: Leads) {
        self.leads.send_if_modified(|known| {
            let changed = *known != leads;
            *known = leads;
            changed
        });
    }
}

fn bind(port: HostPort) -> io::Result<Socket> {
    let at = |address: IpAddr| {
        let kind = match port.protocol {
            Protocol::Tcp => Type::STREAM,
            Protocol::Udp => Type::DGRAM,
        };
        let socket = Socket::new(if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }, kind, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(port.address.is_some())?;
        }
        if port.protocol == Protocol::Tcp {
            // What earlier connections left does not hold the port.
            socket.set_reuse_address(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(address, port.port).into())?;
        if port.protocol == Protocol::Tcp {
            socket.listen(BACKLOG)?;
        }
        Ok(socket)
    };
    match port.address {
        Some(address) => at(address),
        None => at(Ipv6Addr::UNSPECIFIED.into()).or_else(|error: io::Error| {
            let refused = matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied);
            // Otherwise there is no IPv6 in this kernel, or it is switched off.
            if refused { Err(error) } else { at(Ipv4Addr::UNSPECIFIED.into()) }
        }),
    }
}

/// Returns those to try in turn, any of them first; of each container the address of the client's family before the other.
fn in_turn(mut backends: Vec<SocketAddr>, client: SocketAddr) -> Vec<SocketAddr> {
    if !backends.is_empty() {
        let count = backends.len() as u64;
        let first = usize::try_from(entropy::number() % count).unwrap_or_default();
        backends.rotate_left(first);
    }
    backends.sort_by_key(|backend| backend.is_ipv6() != client.ip().to_canonical().is_ipv6());
    backends
}

async fn connections(listener: TcpListener, leads: watch::Receiver<Leads>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < MOST_CONNECTIONS => match accepted {
                Ok((client, from)) => {
                    let Leads { backends, proxy_protocol } = leads.borrow().clone();
                    let backends = in_turn(backends, from);
                    open.spawn(async move {
                        if let Err(error) = hand_on(client, &backends, proxy_protocol).await {
                            tracing::debug!(%error, "a connection to a published port has ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to a published port was not accepted");
                    sleep(PAUSE).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

/// Hands on both ways until both ends have closed.
async fn hand_on(mut client: TcpStream, backends: &[SocketAddr], proxy_protocol: bool) -> io::Result<()> {
    let mut container = connect(backends).await?;
    for stream in [&client, &container] {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1);
        SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    }
    if proxy_protocol {
        container.write_all(&header(client.peer_addr()?, client.local_addr()?)).await?;
    }
    copy_bidirectional(&mut client, &mut container).await.map(drop)
}

async fn connect(backends: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotConnected, "no container is there");
    for backend in backends.iter().take(TRIES) {
        match timeout(ACCEPTING, TcpStream::connect(backend)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Returns the header of a connection (PROXY protocol, version 2: haproxy's doc/proxy-protocol.txt, section 2.2).
fn header(client: SocketAddr, asked: SocketAddr) -> Vec<u8> {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    /// Version 2, on behalf of a client.
    const PROXY: u8 = 0x21;
    const TCP_OVER_IPV4: u8 = 0x11;
    const TCP_OVER_IPV6: u8 = 0x21;
    let (source, destination) = (client.ip().to_canonical(), asked.ip().to_canonical());
    let (kind, addresses) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            (TCP_OVER_IPV4, [source.octets(), destination.octets()].concat())
        }
        (source, destination) => (TCP_OVER_IPV6, [mapped(source).octets(), mapped(destination).octets()].concat()),
    };
    let ports = [client.port().to_be_bytes(), asked.port().to_be_bytes()].concat();
    let length = u16::try_from(addresses.len() + ports.len()).expect("36 bytes at most");
    [SIGNATURE, &[PROXY, kind], &length.to_be_bytes(), &addresses, &ports].concat()
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// A client by datagrams.
#[derive(Debug)]
struct Client {
    backend: SocketAddr,
    socket: Arc<UdpSocket>,
    last: Arc<Mutex<Instant>>,
    answers: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

async fn datagrams(socket: Arc<UdpSocket>, leads: watch::Receiver<Leads>) {
    let mut clients: BTreeMap<Asked, Client> = BTreeMap::new();
    // Ends the tasks that hand answers back together with this one.
    let mut answering = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    let mut sweep = interval(SWEEP);
    loop {
        tokio::select! {
            received = asked::receive(&socket, &mut buffer) => {
                let Ok((length, asked)) = received else {
                    sleep(PAUSE).await;
                    continue;
                };
                if clients.get(&asked).is_some_and(|client| !leads.borrow().backends.contains(&client.backend)) {
                    clients.remove(&asked);
                }
                if !clients.contains_key(&asked) {
                    let backends = leads.borrow().backends.clone();
                    let backend = in_turn(backends, asked.client).first().copied();
                    let Some(backend) = backend.filter(|_| clients.len() < MOST_CLIENTS) else { continue };
                    match meet(&socket, asked, backend, &mut answering).await {
                        Ok(client) => drop(clients.insert(asked, client)),
                        Err(error) => {
                            tracing::debug!(%error, "a datagram to a published port is dropped");
                            continue;
                        }
                    }
                }
                if let Some(client) = clients.get(&asked) {
                    touch(&client.last);
                    // What does not go is lost, as datagrams may be.
                    let _ = client.socket.send(buffer.get(..length).unwrap_or_default()).await;
                }
            }
            _ = sweep.tick() => {
                clients.retain(|_, client| client.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < IDLE);
            }
            Some(_) = answering.join_next() => {}
        }
    }
}

fn touch(last: &Mutex<Instant>) {
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
}

/// Makes a client's way to a container and back.
async fn meet(
    socket: &Arc<UdpSocket>,
    asked: Asked,
    backend: SocketAddr,
    answering: &mut JoinSet<()>,
) -> io::Result<Client> {
    let any: IpAddr = if backend.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let own = Arc::new(UdpSocket::bind((any, 0)).await?);
    own.connect(backend).await?;
    let last = Arc::new(Mutex::new(Instant::now()));
    let (to, of, seen) = (Arc::clone(socket), Arc::clone(&own), Arc::clone(&last));
    let answers = answering.spawn(async move {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            match of.recv(&mut buffer).await {
                Ok(length) => {
                    touch(&seen);
                    let _ = asked::answer(&to, buffer.get(..length).unwrap_or_default(), asked).await;
                }
                // Nobody listens there, at present.
                Err(_) => sleep(PAUSE).await,
            }
        }
    });
    Ok(Client { backend, socket: own, last, answers })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// How long anything may take before a test fails.
    const DEADLINE: Duration = Duration::from_secs(5);

    fn free_port(protocol: Protocol) -> HostPort {
        let address = Some(Ipv4Addr::LOCALHOST.into());
        let socket = bind(HostPort { port: 0, protocol, address }).expect("bound");
        let port = socket.local_addr().expect("bound").as_socket().expect("an address").port();
        HostPort { port, protocol, address }
    }

    fn at(port: HostPort) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port.port).into()
    }

    fn leads(backends: Vec<SocketAddr>) -> Leads {
        Leads { backends, proxy_protocol: false }
    }

    /// A container that answers each datagram with `word`.
    async fn container_by_datagrams(word: &'static str) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let address = socket.local_addr().expect("bound");
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(word.as_bytes(), from).await;
            }
        });
        address
    }

    /// A container that says `word`, then everything that it hears until the client has closed.
    async fn container(word: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    client.write_all(word.as_bytes()).await.expect("written");
                    let mut heard = Vec::new();
                    client.read_to_end(&mut heard).await.expect("read");
                    client.write_all(&heard).await.expect("written");
                });
            }
        });
        address
    }

    async fn ask(port: HostPort) -> Vec<u8> {
        let asked = async {
            let mut client = TcpStream::connect(at(port)).await.expect("connected");
            client.write_all(b" hello").await.expect("written");
            client.shutdown().await.expect("half closed");
            let mut answer = Vec::new();
            // Nobody there: the connection is closed, or reset.
            let _ = client.read_to_end(&mut answer).await;
            answer
        };
        timeout(DEADLINE, asked).await.expect("an answer in time")
    }

    #[tokio::test]
    async fn connections_are_spread_and_survive_half_closing_and_a_dead_container() {
        let port = free_port(Protocol::Tcp);
        let forwarder = Forwarder::start(port).expect("free");
        assert_eq!(ask(port).await, b"", "nobody is there");
        let dead = at(free_port(Protocol::Tcp));
        forwarder.lead(leads(vec![dead, container("one").await, container("two").await]));
        let mut answers = std::collections::BTreeSet::new();
        for _ in 0..64 {
            answers.insert(ask(port).await);
        }
        let expected = [b"one hello".to_vec(), b"two hello".to_vec()];
        assert_eq!(answers, expected.into());
        let taken = Forwarder::start(port).expect_err("somebody has it");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_header_names_the_client() {
        let port = free_port(Protocol::Tcp);
        let forwarder = Forwarder::start(port).expect("free");
        let without = leads(vec![container("").await]);
        forwarder.lead(without.clone());
        assert_eq!(ask(port).await, b" hello");
        forwarder.lead(Leads { proxy_protocol: true, ..without });
        let answer = ask(port).await;
        let (head, rest) = answer.split_at_checked(28).expect("a header");
        assert_eq!(&head[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
        assert_eq!(head[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
        assert_eq!(head[26..28], port.port.to_be_bytes());
        assert_eq!(rest, b" hello");
    }

    #[test]
    fn headers_have_the_form_of_their_family() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("valid");
        let mapped = header(address("[::ffff:192.0.2.1]:1000"), address("[::ffff:192.0.2.2]:80"));
        assert_eq!(mapped, header(address("192.0.2.1:1000"), address("192.0.2.2:80")));
        assert_eq!(mapped.len(), 28);
        let v6 = header(address("[2001:db8::1]:1000"), address("[2001:db8::2]:80"));
        assert_eq!((v6.len(), &v6[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
    }

    #[tokio::test]
    async fn datagrams_come_back_and_follow_who_is_left() {
        let port = free_port(Protocol::Udp);
        let forwarder = Forwarder::start(port).expect("free");
        let containers = [container_by_datagrams("one").await, container_by_datagrams("two").await];
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        for (backend, word) in containers.into_iter().zip(["one", "two"]) {
            forwarder.lead(leads(vec![backend]));
            client.send_to(b"hello", at(port)).await.expect("sent");
            let mut buffer = [0; 64];
            let received = timeout(DEADLINE, client.recv_from(&mut buffer)).await.expect("in time");
            let (length, from) = received.expect("received");
            assert_eq!((&buffer[..length], from), (word.as_bytes(), at(port)));
        }
    }

    #[tokio::test]
    async fn answers_come_from_the_address_that_was_asked() {
        let port = HostPort { address: None, ..free_port(Protocol::Udp) };
        let forwarder = Forwarder::start(port).expect("free");
        forwarder.lead(leads(vec![container_by_datagrams("one").await]));
        for address in ["127.0.0.1", "127.0.0.2", "::1"] {
            let address: IpAddr = address.parse().expect("valid");
            let client = UdpSocket::bind((address, 0)).await.expect("bound");
            // The kernel drops what comes from elsewhere.
            client.connect((address, port.port)).await.expect("connected");
            client.send(b"hello").await.expect("sent");
            let mut buffer = [0; 64];
            let length = timeout(DEADLINE, client.recv(&mut buffer)).await.expect("in time").expect("received");
            assert_eq!(&buffer[..length], b"one", "{address}");
        }
    }
}
