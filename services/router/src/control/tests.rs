//! Connections over the loopback, between two routers that do nothing else.

#![expect(clippy::wildcard_enum_match_arm, reason = "each test waits for one event and fails with any other")]

use std::{net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use weft_router_core::{
    handshake::{Handshake, HandshakeConfig, Password, PasswordPair},
    mesh::GoodbyeReason,
};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

struct Router {
    control: Control,
    events: mpsc::Receiver<ControlEvent>,
    datagrams: mpsc::UnboundedReceiver<(PeerName, Bytes)>,
}

/// Keeps the datagrams that come inside connections.
#[derive(Debug)]
struct Datagrams(mpsc::UnboundedSender<(PeerName, Bytes)>);

impl TakeDatagrams for Datagrams {
    fn take(&self, from: PeerName, datagram: Bytes) {
        self.0.send((from, datagram)).expect("the test waits");
    }
}

impl Router {
    fn new(key: u8, password: Option<&str>) -> Self {
        let passwords = password.map(|text| Passwords::new(Password::new(text.as_bytes()), None));
        let (sender, datagrams) = mpsc::unbounded_channel();
        let taker = Box::new(Datagrams(sender));
        let (control, events) = Control::new(StaticKey::from_private([key; 32]), passwords, "/".into(), taker);
        Self { control, events, datagrams }
    }

    /// Listens on a port that the kernel chooses, and returns it.
    fn listen(&self) -> SocketAddr {
        let listener = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).expect("a free port");
        let address = listener.local_addr().expect("bound");
        self.control.listen(listener);
        address
    }

    /// Returns the next event but for the questions that every handshake asks.
    async fn event(&mut self) -> ControlEvent {
        timeout(DEADLINE, async {
            loop {
                match self.events.recv().await.expect("the queue stays open") {
                    ControlEvent::Introduce { random, remote, reply } => {
                        reply.send(introduction(random, remote)).expect("the handshake waits");
                    }
                    event => return event,
                }
            }
        })
        .await
        .expect("an event in time")
    }

    async fn connected(&mut self) -> Connected {
        match self.event().await {
            ControlEvent::Connected(connected) => *connected,
            other => panic!("not connected: {other:?}"),
        }
    }
}

fn introduction(random: u64, remote: SocketAddr) -> Introduction {
    Introduction {
        protocol_min: 1,
        protocol_max: 1,
        name: "name".into(),
        nickname: "host".into(),
        instance: 7,
        connection: random,
        address_range: "10.32.0.0/12".parse().expect("valid"),
        ring_id: None,
        data_port: 0,
        listen_port: 6783,
        observed: Some(remote),
        trusted_subnets: Vec::new(),
    }
}

#[tokio::test]
async fn messages_pass_and_a_goodbye_comes_before_the_end() {
    let (mut a, mut b) = (Router::new(1, Some("x")), Router::new(2, Some("x")));
    let address = b.listen();
    a.control.dial(DialId(5), DialAddress::Endpoint(address));
    let (at_a, at_b) = tokio::join!(a.connected(), b.connected());
    assert_eq!(at_a.peer, StaticKey::from_private([2; 32]).name());
    assert_eq!(at_b.peer, StaticKey::from_private([1; 32]).name());
    assert_eq!((at_a.dial, at_b.dial), (Some(DialId(5)), None));
    assert_eq!((at_a.introduction.connection, at_b.introduction.connection), (at_b.local_random, at_a.local_random));

    assert!(at_a.outgoing.send(ControlMessage::Digest([9; 32])));
    match b.event().await {
        ControlEvent::Message { connection, message: Ok(ControlMessage::Digest(hash)) } => {
            assert_eq!((connection, hash), (at_b.connection, [9; 32]));
        }
        other => panic!("no digest: {other:?}"),
    }
    assert!(matches!(a.event().await, ControlEvent::Transmitted { count: 1, .. }));
    let goodbye = Goodbye { reason: GoodbyeReason::Stopping, message: "the end".into() };
    at_a.outgoing.close(Some(goodbye.clone()));
    match b.event().await {
        ControlEvent::Message { message: Ok(ControlMessage::Goodbye(said)), .. } => assert_eq!(said, goodbye),
        other => panic!("no goodbye: {other:?}"),
    }
    assert!(matches!(b.event().await, ControlEvent::Closed { problem: None, .. }));
    assert!(matches!(a.event().await, ControlEvent::Closed { problem: None, .. }));
}

#[tokio::test]
async fn datagrams_pass_beside_messages_and_are_dropped_when_too_many_wait() {
    let (mut a, mut b) = (Router::new(1, Some("x")), Router::new(2, Some("x")));
    let address = b.listen();
    a.control.dial(DialId(5), DialAddress::Endpoint(address));
    let (at_a, at_b) = tokio::join!(a.connected(), b.connected());

    // Nothing is written before this task waits.
    let taken = (0..1000_u16).take_while(|number| at_a.stream.send(number.to_be_bytes().to_vec())).count();
    assert!((64..1000).contains(&taken), "{taken}");
    assert!(at_a.outgoing.send(ControlMessage::Digest([9; 32])));
    assert!(matches!(b.event().await, ControlEvent::Message { message: Ok(ControlMessage::Digest(_)), .. }));
    for number in 0..taken as u16 {
        let (from, datagram) = timeout(DEADLINE, b.datagrams.recv()).await.expect("in time").expect("open");
        assert_eq!((from, &datagram[..]), (at_b.peer, &number.to_be_bytes()[..]));
    }
    assert!(at_b.stream.send(b"back".to_vec()));
    let (from, datagram) = timeout(DEADLINE, a.datagrams.recv()).await.expect("in time").expect("open");
    assert_eq!((from, &datagram[..]), (at_a.peer, &b"back"[..]));
    assert!(!at_a.stream.is_closed());
    at_a.outgoing.close(None);
    assert!(matches!(b.event().await, ControlEvent::Closed { .. }));
    assert!(at_a.stream.is_closed() && at_b.stream.is_closed());
}

#[tokio::test]
async fn both_sides_name_a_wrong_password_and_guessing_is_stopped() {
    let (mut a, mut b) = (Router::new(1, Some("x")), Router::new(2, Some("y")));
    let address = b.listen();
    let sentence =
        |remote: &str| format!("the password differs from that of {remote}: set the same WEFT_PASSWORD on both hosts");
    let mut reasons = Vec::new();
    for _ in 0..6 {
        a.control.dial(DialId(1), DialAddress::Endpoint(address));
        let asked = async {
            // The other router has to be asked for its introduction too.
            tokio::select! { event = a.event() => (Some(event), None), event = b.event() => (None, Some(event)) }
        };
        let mut outcome = asked.await;
        while outcome.0.is_none() {
            if let Some(ControlEvent::Refused { problem, .. }) = outcome.1 {
                assert_eq!(problem.message, sentence("127.0.0.1"));
            }
            outcome =
                tokio::select! { event = a.event() => (Some(event), None), event = b.event() => (None, Some(event)) };
        }
        let Some(ControlEvent::DialFailed { problem, .. }) = outcome.0 else { panic!("it did not fail: {outcome:?}") };
        if problem.reason == "wrong_password" {
            assert_eq!(problem.message, sentence(&address.to_string()));
            assert!(problem.is_final);
        }
        reasons.push(problem.reason);
    }
    assert_eq!(reasons, [&["wrong_password"; 5][..], &["busy"]].concat());
}

#[tokio::test]
async fn a_password_here_and_none_there_is_named_on_both_sides() {
    let (mut a, mut b) = (Router::new(1, Some("x")), Router::new(2, None));
    let address = b.listen();
    a.control.dial(DialId(1), DialAddress::Endpoint(address));
    match tokio::join!(a.event(), b.event()) {
        (ControlEvent::DialFailed { problem: at_a, .. }, ControlEvent::Refused { problem: at_b, .. }) => {
            assert!(at_a.message.contains("runs without a password, this host with one"), "{}", at_a.message);
            assert!(at_b.message.contains("runs with a password, this host without"), "{}", at_b.message);
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn unreachable_and_unknown_hosts_are_named() {
    let mut a = Router::new(1, None);
    let closed = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).expect("a free port");
    let address = closed.local_addr().expect("bound");
    drop(closed);
    a.control.dial(DialId(1), DialAddress::Endpoint(address));
    match a.event().await {
        ControlEvent::DialFailed { problem, .. } => {
            assert_eq!(problem.reason, "unreachable");
            assert!(problem.message.contains(&address.to_string()), "{}", problem.message);
        }
        other => panic!("it did not fail: {other:?}"),
    }
}

#[tokio::test]
async fn a_stranger_on_the_port_is_refused_without_harm() {
    let mut b = Router::new(2, Some("y"));
    let address = b.listen();
    let mut stranger = TcpStream::connect(address).await.expect("listening");
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    match b.event().await {
        ControlEvent::Refused { problem, .. } => assert_eq!(problem.reason, "not_weft"),
        other => panic!("not refused: {other:?}"),
    }
    let mut rest = Vec::new();
    // A reset tells the same.
    let _ = timeout(DEADLINE, stranger.read_to_end(&mut rest)).await.expect("closed in time");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).expect("a free port");
    let port = first.local_addr().expect("bound").port();
    let error = bind(Some(Ipv4Addr::LOCALHOST.into()), port).expect_err("taken").to_string();
    assert_eq!(
        error,
        format!("cannot listen on 127.0.0.1:{port}: another process uses the port; stop it or set WEFT_PORT")
    );
}

/// Connects from an address of the loopback.
async fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::from(source), 0).into()).expect("the loopback has the address");
    socket.connect(address).await.expect("accepted")
}

#[tokio::test]
async fn strangers_that_say_nothing_keep_nobody_out() {
    let (mut a, mut b) = (Router::new(1, Some("x")), Router::new(2, Some("x")));
    let address = b.listen();
    let mut strangers = Vec::new();
    for _ in 0..3 * listen::HANDSHAKES {
        strangers.push(connect_from([127, 0, 0, 2], address).await);
    }
    a.control.dial(DialId(1), DialAddress::Endpoint(address));
    let (at_a, _at_b) = tokio::join!(a.connected(), b.connected());
    assert_eq!(at_a.dial, Some(DialId(1)));
    // The oldest made room, and the newest have their time.
    let ended = timeout(DEADLINE, strangers[0].read(&mut [0])).await.expect("room is made");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let newest = strangers.last_mut().expect("there are many");
    assert!(futures::poll!(std::pin::pin!(newest.read(&mut [0]))).is_pending());
}

/// A connection that has said all but the message by which the other side knows whether the password is right.
async fn guess(source: [u8; 4], address: SocketAddr) -> (TcpStream, Vec<u8>) {
    let mut stream = connect_from(source, address).await;
    let config = HandshakeConfig {
        key: StaticKey::from_private([1; 32]),
        passwords: Some(Passwords::new(Password::new(b"wrong"), None)),
        introduction: introduction(1, address),
    };
    let mut handshake = Handshake::initiator(config, PasswordPair::FIRST, [source[3]; 32]);
    let hello = handshake.poll_output().expect("the hello");
    stream.write_all(&hello).await.expect("written");
    let mut buffer = [0; 4096];
    let proof = loop {
        let length = stream.read(&mut buffer).await.expect("answered");
        assert_ne!(length, 0, "closed before the guess");
        handshake.handle_input(&buffer[..length]).expect("a hello");
        if let Some(proof) = handshake.poll_output() {
            break proof;
        }
    };
    (stream, proof)
}

/// Guesses wrong from as many connections as there are places, and returns what one more is told meanwhile.
async fn guess_everywhere(round: u8, address: SocketAddr) -> Vec<u8> {
    let mut guesses = Vec::new();
    for number in 0..listen::HANDSHAKES as u8 {
        // Five of one address are not slowed down.
        guesses.push(guess([127, 1 + round, number / 5, 1], address).await);
    }
    for (stream, proof) in &mut guesses {
        stream.write_all(proof).await.expect("written");
    }
    for (stream, _) in &mut guesses {
        let mut refusal = Vec::new();
        stream.read_to_end(&mut refusal).await.expect("refused");
        assert_eq!(refusal, [0, 2, 3, 1], "the password is wrong");
    }
    let mut late = connect_from([127, 0, 0, 3], address).await;
    // Whoever has a place and says nothing more gets no answer.
    late.shutdown().await.expect("still open");
    let mut answer = Vec::new();
    timeout(DEADLINE, late.read_to_end(&mut answer)).await.expect("in time").expect("closed");
    answer
}

#[tokio::test]
async fn the_place_of_a_wrong_password_makes_room_for_nobody() {
    let mut b = Router::new(2, Some("right"));
    let address = b.listen();
    tokio::spawn(async move {
        loop {
            b.event().await;
        }
    });
    // A machine that was busy for longer than a place is kept shows nothing.
    for round in 0..20 {
        if guess_everywhere(round, address).await == Handshake::busy() {
            return;
        }
    }
    panic!("a wrong password's place was given away each time");
}
