//! Messages of the data key agreement, also such that a peer sealed as it should and filled as it should not.

use prost::Message as _;
use weft_proto::mesh::v1::{SessionInit, SessionMessage, SessionOffer, SessionResponse, session_message::Kind};
use weft_router_core::{
    handshake::StaticKey,
    session::{
        Cipher, SessionIndex,
        agreement::{Agreement, AgreementConfig},
    },
};
use weft_types::PeerName;

use crate::{
    Bounds, Target,
    input::{Input, pause, start},
};

/// Messages of one peer: as bytes, and with an offer that is sealed well.
pub(crate) const SESSION: Target =
    Target { name: "session", bounds: Bounds { memory_bytes: 1 << 20, allocations: 50_000 }, run: session, seeds };

const CIPHERS: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

fn session(input: &[u8]) {
    let mut input = Input::new(input);
    let (ours, theirs) = (key(1), key(2));
    let config = AgreementConfig { key: ours.clone(), ciphers: CIPHERS.to_vec(), capabilities: 0 };
    let mut agreement = Agreement::new(config, [1; 32]);
    let mut now = start();
    agreement.add_peer(theirs.name(), now);
    let mut steps = 0;
    while !input.is_empty() && steps < 8 {
        steps += 1;
        let [how, time] = input.array();
        now += pause(time);
        let bytes = input.piece();
        let message = match how % 3 {
            0 => SessionMessage::decode(bytes).ok(),
            1 => Some(init(&theirs, &ours, bytes)),
            _ => std::iter::from_fn(|| agreement.poll_transmit()).last().and_then(|(_, said)| answer(&said, bytes)),
        };
        if let Some(message) = message {
            let _ = agreement.handle_message(theirs.name(), &message, now);
        }
        while let Some(agreed) = agreement.poll_agreed() {
            assert_eq!(agreed.session.peer, theirs.name());
            assert!(agreed.endpoints.len() <= 16 && agreed.session.remote_index <= SessionIndex(SessionIndex::MAX));
            agreement.release(agreed.session.local_index);
        }
        agreement.handle_timeout(now);
    }
}

fn key(number: u8) -> StaticKey {
    StaticKey::from_private([number; 32])
}

fn builder<'a>(own: &'a StaticKey, other: &'a PeerName) -> snow::Builder<'a> {
    let pattern = "Noise_KK_25519_ChaChaPoly_SHA256".parse().expect("a pattern");
    let builder = snow::Builder::new(pattern).prologue(b"weft session v1").expect("once");
    let builder = builder.local_private_key(own.private()).expect("once");
    builder.remote_public_key(other.as_bytes()).expect("once")
}

/// Returns a first message whose offer is `payload`.
fn init(from: &StaticKey, to: &StaticKey, payload: &[u8]) -> SessionMessage {
    let to = to.name();
    let mut state = builder(from, &to).build_initiator().expect("all keys are there");
    let noise = write(&mut state, payload);
    SessionMessage { kind: Some(Kind::Init(SessionInit { receiver_index: 7, noise })) }
}

/// Returns an answer to a first message whose offer is `payload`.
fn answer(said: &SessionMessage, payload: &[u8]) -> Option<SessionMessage> {
    let Some(Kind::Init(init)) = &said.kind else { return None };
    let (from, to) = (key(2), key(1).name());
    let mut state = builder(&from, &to).build_responder().expect("all keys are there");
    state.read_message(&init.noise, &mut [0; 4096]).expect("what we say opens");
    let noise = write(&mut state, payload);
    let response = SessionResponse { receiver_index: 9, answered_index: init.receiver_index, noise };
    Some(SessionMessage { kind: Some(Kind::Response(response)) })
}

fn write(state: &mut snow::HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut noise = vec![0; payload.len() + 256];
    let length = state.write_message(payload, &mut noise).expect("short enough");
    noise.truncate(length);
    noise
}

fn seeds() -> Vec<Vec<u8>> {
    let seed = |how: u8, bytes: &[u8]| [&[how, 0][..], &crate::input::piece(bytes)].concat();
    let offer = |ciphers: &[i32]| {
        let endpoint = std::net::SocketAddr::from(([192, 0, 2, 1], 6783)).into();
        SessionOffer { ciphers: ciphers.to_vec(), endpoints: vec![endpoint], capabilities: 0 }.encode_to_vec()
    };
    let whole = init(&key(2), &key(1), &offer(&[1, 2])).encode_to_vec();
    vec![
        seed(0, &whole),
        seed(1, &offer(&[1, 2])),
        seed(1, &offer(&[2])),
        [seed(0, &[]), seed(2, &offer(&[1]))].concat(),
        [seed(0, &[]), seed(2, &offer(&[1, 2]))].concat(),
    ]
}
