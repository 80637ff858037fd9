//! Queries over TCP (RFC 7766), with bounds on what one container, and all of them together, can hold open.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use hickory_proto::{
    op::{Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode},
    rr::Record,
    serialize::binary::{BinEncodable, BinEncoder},
};
use hickory_server::{
    net::{NetError, runtime::TokioTime, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponse,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use weft_service::Result;

use crate::handler::Handler;

/// How long a client may take for its next query, and to read its answer, before the connection is closed.
const IDLE: Duration = Duration::from_secs(5);

/// Most connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;

/// Most connections of one address at a time; more are closed at once.
const MAX_CONNECTIONS_OF_ONE: usize = 32;

/// Longest query, in bytes. A query has one name and a few options.
const MAX_QUERY: u16 = 4096;

/// Accepts connections and answers what comes over them. Never returns; dropping it closes all connections.
pub(crate) async fn serve(listener: TcpListener, handler: Handler) {
    let mut connections = JoinSet::new();
    let mut sources = BTreeMap::<IpAddr, usize>::new();
    loop {
        tokio::select! {
            Some(ended) = connections.join_next() => {
                let Ok(source) = ended else { continue };
                if let Some(count) = sources.get_mut(&source) {
                    *count -= 1;
                    if *count == 0 {
                        sources.remove(&source);
                    }
                }
            }
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, from)) => {
                    let count = sources.entry(from.ip()).or_default();
                    if *count >= MAX_CONNECTIONS_OF_ONE {
                        tracing::debug!(%from, limit = MAX_CONNECTIONS_OF_ONE, "too many connections of one address");
                        continue;
                    }
                    *count += 1;
                    connections.spawn(connection(stream, from, handler.clone()));
                }
                Err(error) => {
                    // Mostly a lack of descriptors or memory, which passes.
                    tracing::debug!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Answers the queries of one connection in their order, until the client leaves, is silent, or makes no sense.
async fn connection(mut stream: TcpStream, from: SocketAddr, handler: Handler) -> IpAddr {
    loop {
        match answer_next(&mut stream, from, &handler).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                tracing::debug!(%from, error = format!("{error:#}"), "closing a connection");
                break;
            }
        }
    }
    from.ip()
}

/// Answers one query; `false` when there are no more.
async fn answer_next(stream: &mut TcpStream, from: SocketAddr, handler: &Handler) -> Result<bool> {
    let Some(query) = timeout(IDLE, read_query(stream)).await.context("no query came in time")?? else {
        return Ok(false);
    };
    let request = Request::from_bytes(query, from, Protocol::Tcp).context("the query cannot be read")?;
    if request.metadata.message_type != MessageType::Query {
        bail!("the client sent an answer instead of a query");
    }
    let response = Reply::default();
    handler.handle_request::<_, TokioTime>(&request, response.clone()).await;
    let bytes = response.take();
    let length = u16::try_from(bytes.len()).context("the response is too long")?;
    let framed = [&length.to_be_bytes()[..], &bytes].concat();
    timeout(IDLE, stream.write_all(&framed)).await.context("the client does not read its answers")??;
    Ok(true)
}

/// Reads one query; `None` when the client closed the connection between two.
async fn read_query(stream: &mut TcpStream) -> Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if length > MAX_QUERY {
        bail!("a query of {length} bytes; at most {MAX_QUERY} make sense");
    }
    let mut query = vec![0; length.into()];
    stream.read_exact(&mut query).await?;
    Ok(Some(query))
}

/// Takes the response to one query.
#[derive(Debug, Clone, Default)]
struct Reply(Arc<Mutex<Vec<u8>>>);

impl Reply {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait::async_trait]
impl ResponseHandler for Reply {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let id = response.metadata().id;
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder).or_else(|error| {
            tracing::debug!(%error, "a response cannot be written");
            bytes.clear();
            let mut metadata = Metadata::new(id, MessageType::Response, OpCode::Query);
            metadata.response_code = ResponseCode::ServFail;
            let header = Header { metadata, counts: HeaderCounts::default() };
            header.emit(&mut BinEncoder::new(&mut bytes)).map(|()| ResponseInfo::from(header))
        })?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        Ok(info)
    }
}
