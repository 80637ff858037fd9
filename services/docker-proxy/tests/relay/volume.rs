//! Bodies and connections that are many or large: nothing of them is kept.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use weft_docker_proxy::relay::serve;
use weft_service::Shutdown;

use super::{Looking, SOON, Setting, expect, send, soon};

/// A write that does not end within this time waits for a reader.
const BLOCKED: Duration = Duration::from_millis(500);

/// More than all buffers between client and engine together: two of the relay, and those of four sockets.
const BUFFERED: u64 = 4 << 20;

/// What is passed in the tests of large bodies, in bytes.
const LARGE: u64 = 256 << 20;

#[tokio::test]
async fn thousands_of_connections_cost_little() {
    let (_client, served) = UnixStream::pair().expect("a pair of sockets");
    let looking = Looking { engine: PathBuf::new() };
    let (_stop, shutdown) = Shutdown::triggered();
    // What a connection has beside the bytes that wait in it.
    let size = size_of_val(&serve(served, &looking.engine, &looking, &shutdown));
    assert!(size < 6 * 1024, "{size} bytes");
}

/// Writes so many bytes, and counts those that were taken.
async fn pour(stream: &mut UnixStream, most: u64, taken: &AtomicU64) {
    let block: Vec<u8> = (0..=250).cycle().take(251 * 256).collect();
    while taken.load(Ordering::Relaxed) < most {
        let from = taken.load(Ordering::Relaxed);
        let rest = usize::try_from((most - from).min(64_000)).expect("a block is small");
        let start = usize::try_from(from % 251).expect("a byte");
        let length = stream.write(&block[start..start + rest]).await.expect("the reader is there");
        taken.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Reads so many bytes, and checks that they are those of [`pour`].
async fn drain(stream: &mut UnixStream, most: u64) {
    let (mut block, mut read) = (vec![0; 256 * 1024], 0_u64);
    while read < most {
        let room = usize::try_from((most - read).min(block.len() as u64)).expect("a block is small");
        let length = stream.read(&mut block[..room]).await.expect("the writer is there");
        assert!(length > 0, "cut after {read} bytes");
        let right = block[..length].iter().zip(read..).all(|(byte, place)| u64::from(*byte) == place % 251);
        assert!(right, "another byte than was sent, between {read} and {}", read + length as u64);
        read += length as u64;
    }
}

/// Checks that a writer stops while nobody reads, and that all arrives once somebody does.
async fn passes_without_being_kept(mut writer: UnixStream, mut reader: UnixStream) {
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let mut pouring = tokio::spawn(async move {
        pour(&mut writer, LARGE, &counter).await;
        writer
    });
    let mut before = u64::MAX;
    soon("the writer is held up", async {
        while before != taken.load(Ordering::Relaxed) {
            before = taken.load(Ordering::Relaxed);
            assert!(timeout(BLOCKED, &mut pouring).await.is_err(), "all was taken, although nobody reads");
        }
    })
    .await;
    assert!((1..BUFFERED).contains(&before), "{before} bytes are kept");
    timeout(SOON * 3, drain(&mut reader, LARGE)).await.expect("all arrives");
    pouring.await.expect("all was taken");
}

#[tokio::test]
async fn a_large_answer_waits_for_its_reader() {
    let mut setting = Setting::new();
    let request = "GET /export HTTP/1.1\r\nHost: d\r\n\r\n";
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    send(&mut setting.client, request).await;
    let mut engine = setting.accept().await;
    expect(&mut engine, request).await;
    send(&mut engine, &head).await;
    expect(&mut setting.client, &head).await;
    passes_without_being_kept(engine, setting.client).await;
}

#[tokio::test]
async fn a_large_upload_waits_for_the_engine() {
    let mut setting = Setting::new();
    let head = format!("POST /load HTTP/1.1\r\nHost: d\r\nContent-Length: {LARGE}\r\n\r\n");
    send(&mut setting.client, &head).await;
    let mut engine = setting.accept().await;
    expect(&mut engine, &head).await;
    passes_without_being_kept(setting.client, engine).await;
}
