//! One client's connection.

use std::{
    io,
    path::Path,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    sync::SetOnce,
    time::Instant,
};
use weft_service::Shutdown;

use super::{
    body,
    head::{self, Framing, HeadError, RequestHead, ResponseHead},
    message::{Answer, EngineTime, Request},
    reader::Reader,
};

/// Longest body of a request that is looked into, in bytes. The engine's own limit for a container's configuration.
const LONGEST_REQUEST: u64 = 4 << 20;

/// Longest body of a response that is looked into: a list of some ten thousand containers.
const LONGEST_RESPONSE: u64 = 64 << 20;

/// How long a client may take for one request head once it began.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long a client may go on sending after its last answer.
const LINGER: Duration = Duration::from_secs(2);

/// How long requests under way may go on when the proxy is stopped.
const GRACE: Duration = Duration::from_secs(1);

/// The status with which requests are refused that are not let in.
const FORBIDDEN: u16 = 403;

/// The status of requests that nobody could serve.
const UNAVAILABLE: u16 = 503;

/// Decides about requests, and answers those that it wants to look into.
pub trait Interceptor: Send + Sync {
    /// Returns why the request is not let in at all, in one sentence; it is refused with 403.
    fn refuses(&self, _request: &RequestHead) -> Option<String> {
        None
    }

    /// Tells whether the request is to be answered by [`answer`](Self::answer); all others pass untouched.
    fn wants(&self, method: &str, target: &str) -> bool;

    /// Answers a request.
    fn answer(&self, request: &Request) -> impl Future<Output = Answer> + Send;

    /// Is told how each request was answered, and how long it was held up here, beside the time that the engine took.
    fn answered(&self, method: &str, target: &str, status: u16, added: Duration);
}

/// Serves one client until it goes away, a message makes it impossible to go on, or the proxy is stopped.
///
/// Ends without an error in all cases: the client has been told, or is gone. What was sent to it before arrives.
pub async fn serve<S, I>(client: S, engine_socket: &Path, interceptor: &I, shutdown: &Shutdown)
where
    S: AsyncRead + AsyncWrite + Send,
    I: Interceptor,
{
    let (reader, mut writer) = tokio::io::split(client);
    let mut reader = Reader::new(reader);
    let mut cut = pin!(shutdown.requested_for(GRACE));
    loop {
        // Between requests a client may stay silent for as long as it likes.
        let began = tokio::select! {
            biased;
            filled = reader.fill_buf() => filled.is_ok_and(|bytes| !bytes.is_empty()),
            () = shutdown.requested() => false,
        };
        if !began {
            break;
        }
        let answering = AtomicBool::new(false);
        let served = tokio::select! {
            served = serve_request(&mut reader, &mut writer, engine_socket, interceptor, &answering) => served,
            () = &mut cut => {
                // An answer that has begun ends too early, which its framing shows.
                if !answering.load(Relaxed) {
                    let message = "weft's docker-proxy was stopped before the request was answered: try again";
                    // A client that does not read must not keep the service.
                    let _ = tokio::time::timeout(LINGER, refuse(&mut writer, UNAVAILABLE, message)).await;
                }
                break;
            }
        };
        match served {
            Ok(Next::Request) => {}
            Ok(Next::Close) => break,
            Err(error) => {
                tracing::debug!(%error, "a client's connection ended");
                break;
            }
        }
    }
    // The client may be gone already. One that still sends would lose its answer if the connection were reset under it.
    let closing = async {
        let _ = writer.shutdown().await;
        body::copy(Framing::UntilClose, &mut reader, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(LINGER, closing).await;
}

/// What follows a request on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Request,
    Close,
}

impl Next {
    fn request_if(keep_alive: bool) -> Self {
        if keep_alive { Self::Request } else { Self::Close }
    }
}

/// Serves the request that begins with what `reader` has. From the first byte of the answer on, `answering` is set.
async fn serve_request<R, W, I>(
    reader: &mut Reader<R>,
    writer: &mut W,
    engine_socket: &Path,
    interceptor: &I,
    answering: &AtomicBool,
) -> io::Result<Next>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
    I: Interceptor,
{
    let request = match tokio::time::timeout(HEAD_DEADLINE, head::read_request(reader)).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return Ok(Next::Close),
        Ok(Err(HeadError::Transport(error))) => return Err(error),
        Ok(Err(error)) => return refuse(writer, 400, &error.to_string()).await,
        Err(_) => return refuse(writer, 400, "the request head did not come within 30 s").await,
    };
    let began = Instant::now();
    if let Some(message) = interceptor.refuses(&request) {
        interceptor.answered(&request.method, &request.target, FORBIDDEN, began.elapsed());
        return refuse(writer, FORBIDDEN, &message).await;
    }
    if interceptor.wants(&request.method, &request.target) {
        // Most of what this needs is not needed while a stream is relayed.
        return Box::pin(intercept(request, reader, writer, interceptor, answering)).await;
    }
    match UnixStream::connect(engine_socket).await {
        Ok(engine) => {
            let answered = |status, added| interceptor.answered(&request.method, &request.target, status, added);
            relay(&request, reader, writer, engine, Observer { began, answered, answering }).await
        }
        Err(error) => {
            let socket = engine_socket.display();
            let message = format!("the Docker Engine does not answer on {socket} ({error}): is it running?");
            interceptor.answered(&request.method, &request.target, UNAVAILABLE, began.elapsed());
            refuse(writer, UNAVAILABLE, &message).await
        }
    }
}

/// Says why and ends the connection: what follows on it cannot be told apart from the refused body.
async fn refuse(writer: &mut (impl AsyncWrite + Unpin), status: u16, message: &str) -> io::Result<Next> {
    write_answer(writer, &Answer::error(status, message)).await?;
    Ok(Next::Close)
}

async fn write_answer(writer: &mut (impl AsyncWrite + Unpin), answer: &Answer) -> io::Result<()> {
    writer.write_all(&answer.head).await?;
    writer.write_all(&answer.body).await?;
    writer.flush().await
}

async fn intercept<R, W, I>(
    head: RequestHead,
    reader: &mut Reader<R>,
    writer: &mut W,
    interceptor: &I,
    answering: &AtomicBool,
) -> io::Result<Next>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
    I: Interceptor,
{
    if head.head.has_token("expect", "100-continue") && head.framing != Framing::Empty {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        writer.flush().await?;
    }
    let body = match body::collect(head.framing, reader, LONGEST_REQUEST).await {
        Ok(Some(body)) => body,
        Ok(None) => {
            let message = format!("the request body is longer than {LONGEST_REQUEST} bytes");
            return refuse(writer, 413, &message).await;
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return refuse(writer, 400, &format!("the request body is malformed: {error}")).await;
        }
        Err(error) => return Err(error),
    };
    let keep_alive = head.keep_alive;
    let request = Request { head, body, engine_time: EngineTime::default() };
    let began = Instant::now();
    let answer = interceptor.answer(&request).await;
    let added = began.elapsed().saturating_sub(request.engine_time.sum());
    interceptor.answered(&request.head.method, &request.head.target, answer.status(), added);
    answering.store(true, Relaxed);
    write_answer(writer, &answer).await?;
    Ok(Next::request_if(keep_alive && answer.keep_alive))
}

/// Sends a request that was looked into, with this body, and returns the whole response.
///
/// # Errors
/// If the engine closes the connection, answers something that is not HTTP, or more than can be looked into.
pub async fn exchange(engine: UnixStream, request: &Request, body: &[u8]) -> io::Result<(ResponseHead, Vec<u8>)> {
    let began = Instant::now();
    let outcome = exchange_untimed(engine, request, body).await;
    request.engine_time.add(began.elapsed());
    outcome
}

async fn exchange_untimed(engine: UnixStream, request: &Request, body: &[u8]) -> io::Result<(ResponseHead, Vec<u8>)> {
    let (engine_reader, mut engine_writer) = engine.into_split();
    let mut engine_reader = Reader::new(engine_reader);
    let head = &request.head.head;
    let head = if body.is_empty() && request.head.framing == Framing::Empty {
        head.bytes.clone()
    } else if request.body.is_empty() && !body.is_empty() {
        head.with_json(body.len())
    } else {
        head.with_length(body.len())
    };
    let upload = async {
        // An engine that stops reading has usually answered already, and its answer is what counts; if there is none, that
        // is noticed there.
        if engine_writer.write_all(&head).await.is_ok() {
            let _ = engine_writer.write_all(body).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        response = read_whole(&mut engine_reader, &request.head.method) => response,
        never = upload => never,
    }
}

/// Reads the response to a request with `method`, after those that only announce it.
async fn read_whole(engine: &mut (impl AsyncBufRead + Unpin), method: &str) -> io::Result<(ResponseHead, Vec<u8>)> {
    loop {
        let response = match head::read_response(engine, method).await {
            Ok(response) => response,
            Err(HeadError::Transport(error)) => return Err(error),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        if (100..200).contains(&response.status) {
            continue;
        }
        return match body::collect(response.framing, engine, LONGEST_RESPONSE).await? {
            Some(body) => Ok((response, body)),
            None => {
                let message = format!("the engine's answer is longer than {LONGEST_RESPONSE} bytes");
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        };
    }
}

/// Is told about the answer to one request that was relayed.
struct Observer<'a, F> {
    /// When the request's head had come.
    began: Instant,
    /// Takes the status, and for how long the proxy held up the request.
    answered: F,
    /// Set from the first byte of the answer on.
    answering: &'a AtomicBool,
}

/// Passes a request to the engine and its response to the client, both as they came.
async fn relay<R, W, F>(
    request: &RequestHead,
    reader: &mut Reader<R>,
    writer: &mut W,
    engine: UnixStream,
    observer: Observer<'_, F>,
) -> io::Result<Next>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
    F: Fn(u16, Duration) + Send + Sync,
{
    let (engine_reader, mut engine_writer) = engine.into_split();
    let mut engine_reader = Reader::new(engine_reader);
    // An engine that does not read may have answered all the same: then its answer counts, else its silence is reported.
    let _ = engine_writer.write_all(&request.head.bytes).await;
    let before = observer.began.elapsed();
    let observe = |status, after| (observer.answered)(status, before + after);

    let body_passed = SetOnce::new_with((request.framing == Framing::Empty).then_some(true));
    let response = {
        let upload = async {
            // An engine that stops reading has usually answered already, and its answer is what counts.
            let whole = body::copy(request.framing, reader, &mut engine_writer).await.is_ok();
            // An empty body has passed before.
            let _ = body_passed.set(whole);
            if whole {
                pass_end(reader, &mut engine_writer).await;
            } else {
                let _ = engine_writer.shutdown().await;
            }
            std::future::pending().await
        };
        let response = async {
            let response = respond(request, &mut engine_reader, writer, &observe, observer.answering).await?;
            if matches!(response, Response::Hijacked) {
                // The stream begins behind the body, whose end the engine may not have waited for.
                body_passed.wait().await;
            }
            Ok::<_, io::Error>(response)
        };
        tokio::select! {
            response = response => response?,
            never = upload => never,
        }
    };
    let body_passed = body_passed.get() == Some(&true);
    match response {
        Response::Hijacked if !body_passed => Ok(Next::Close),
        Response::Hijacked => {
            pass_both_ways(reader, writer, &mut engine_reader, &mut engine_writer).await?;
            Ok(Next::Close)
        }
        Response::Whole { keep_alive } => Ok(Next::request_if(keep_alive && request.keep_alive && body_passed)),
    }
}

/// Waits for the client's end of the stream, and passes it on: the engine then stops what it does for the client.
///
/// A client that sends its next request already is waited for no more; the request stays in the buffer.
async fn pass_end<R>(reader: &mut Reader<R>, engine: &mut (impl AsyncWrite + Unpin))
where
    R: AsyncRead + Unpin,
{
    if !reader.fill_buf().await.is_ok_and(|next| !next.is_empty()) {
        let _ = engine.shutdown().await;
    }
}

/// What the engine answered.
#[derive(Debug, Clone, Copy)]
enum Response {
    /// A message, passed on whole.
    Whole { keep_alive: bool },
    /// A head, after which the connection is a stream in both directions.
    Hijacked,
}

/// Passes on the engine's response, and those before it that only announce it.
async fn respond<E, W>(
    request: &RequestHead,
    engine: &mut Reader<E>,
    writer: &mut W,
    observe: &(impl Fn(u16, Duration) + Sync),
    answering: &AtomicBool,
) -> io::Result<Response>
where
    E: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let response = match head::read_response(engine, &request.method).await {
            Ok(response) => response,
            Err(HeadError::Transport(error)) => {
                let message = format!("the Docker Engine closed the connection before it answered ({error})");
                observe(502, Duration::ZERO);
                refuse(writer, 502, &message).await?;
                return Ok(Response::Whole { keep_alive: false });
            }
            Err(error) => {
                observe(502, Duration::ZERO);
                refuse(writer, 502, &format!("the Docker Engine's answer cannot be passed on: {error}")).await?;
                return Ok(Response::Whole { keep_alive: false });
            }
        };
        let came = Instant::now();
        let announces = response.status != 101 && (100..200).contains(&response.status);
        answering.fetch_or(!announces, Relaxed);
        writer.write_all(&response.head.bytes).await?;
        writer.flush().await?;
        if !announces {
            observe(response.status, came.elapsed());
        }
        if response.status == 101 || is_raw_stream(&response) {
            return Ok(Response::Hijacked);
        }
        if !announces {
            body::copy(response.framing, engine, writer).await?;
            return Ok(Response::Whole { keep_alive: response.keep_alive });
        }
    }
}

/// Tells whether the engine took the connection over without saying 101, as it does for clients that do not ask to upgrade.
fn is_raw_stream(response: &ResponseHead) -> bool {
    const STREAMS: [&[u8]; 2] = [b"application/vnd.docker.raw-stream", b"application/vnd.docker.multiplexed-stream"];
    response.framing == Framing::UntilClose
        && response.head.values("content-type").any(|value| STREAMS.contains(&value.trim_ascii()))
}

/// Copies both ways until both sides have ended; an end is passed on while the other direction goes on.
async fn pass_both_ways<R, W, E, F>(
    client_reader: &mut R,
    client_writer: &mut W,
    engine_reader: &mut E,
    engine_writer: &mut F,
) -> io::Result<()>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
    E: AsyncBufRead + Unpin,
    F: AsyncWrite + Unpin,
{
    let upload = async {
        // A client that is gone is noticed when the engine writes; until then the engine may go on reading.
        let _ = body::copy(Framing::UntilClose, client_reader, engine_writer).await;
        let _ = engine_writer.shutdown().await;
        std::future::pending().await
    };
    let download = async {
        body::copy(Framing::UntilClose, engine_reader, client_writer).await?;
        client_writer.shutdown().await
    };
    // The engine ends its side last: it has nothing to read for after that.
    tokio::select! {
        biased;
        done = download => done,
        never = upload => never,
    }
}
