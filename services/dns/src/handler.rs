//! Turns a DNS request into a question for the core or the resolvers, and what they say into a response.

use std::sync::Arc;

use hickory_proto::{
    op::{Edns, Header, HeaderCounts, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record, RecordType},
};
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::time::Instant;
use weft_dns_core::Answer;

use crate::{
    state::State,
    upstream::{Forwarded, Upstream},
};

/// Largest UDP response, in bytes, whatever the client says it can take: what passes without being cut everywhere (DNS flag
/// day 2020). Larger ones are marked truncated, and the client asks again by TCP.
const MAX_UDP_RESPONSE: u16 = 1232;

/// Smallest UDP response that every client takes, in bytes (RFC 1035, section 4.2.1).
const MIN_UDP_RESPONSE: u16 = 512;

/// Answers requests.
#[derive(Clone)]
pub(crate) struct Handler {
    state: Arc<State>,
    upstream: Arc<Upstream>,
}

/// What a response says.
#[derive(Debug, PartialEq)]
pub(crate) struct Response {
    pub(crate) code: ResponseCode,
    /// Whether we, rather than somebody upstream, say so.
    authoritative: bool,
    pub(crate) answers: Vec<Record>,
    authority: Vec<Record>,
    additionals: Vec<Record>,
}

impl Handler {
    pub(crate) fn new(state: Arc<State>, upstream: Arc<Upstream>) -> Self {
        Self { state, upstream }
    }

    /// Answers a query of class IN.
    pub(crate) async fn resolve(&self, query: &Query) -> Response {
        let seed = self.state.next_seed();
        match self.state.read(|names| names.answer(query.name(), query.query_type(), seed)) {
            Answer::Local(reply) => Response {
                code: reply.code,
                authoritative: true,
                answers: reply.answers,
                authority: reply.authority,
                additionals: Vec::new(),
            },
            Answer::Upstream => {
                let Forwarded { code, answers, authority, additionals } = self.upstream.resolve(query).await;
                Response { code, authoritative: false, answers, authority, additionals }
            }
        }
    }

    async fn respond(&self, request: &Request) -> Response {
        if request.metadata.op_code != OpCode::Query {
            return Response::error(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Response::error(ResponseCode::BADVERS);
        }
        let [query] = request.queries.queries() else { return Response::error(ResponseCode::FormErr) };
        let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
        if query.query_class() != DNSClass::IN || transfer {
            return Response::error(ResponseCode::Refused);
        }
        self.resolve(query.original()).await
    }
}

impl Response {
    fn error(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: Vec::new(), authority: Vec::new(), additionals: Vec::new() }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut handle: R) -> ResponseInfo {
        let began = Instant::now();
        let response = self.respond(request).await;
        let kind = request.queries.queries().first().map(|query| query.query_type());
        let has_records = !response.answers.is_empty();
        self.state.metrics.answered(kind, response.code, has_records, response.authoritative, began.elapsed());
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = response.code;
        metadata.authoritative = response.authoritative;
        metadata.recursion_available = true;

        // Who sends an OPT record gets one (RFC 6891, section 6.1.1); its size bounds the response as it is written.
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_version(0);
            edns.set_max_payload(asked.max_payload().clamp(MIN_UDP_RESPONSE, MAX_UDP_RESPONSE));
            edns.set_rcode_high(response.code.high());
            edns
        });
        let message = MessageResponseBuilder::new(&request.queries, edns.as_ref()).build(
            metadata,
            &response.answers,
            &response.authority,
            [],
            &response.additionals,
        );
        match handle.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                // The client is gone, or its queue of responses is full; it will ask again.
                tracing::debug!(%error, "a response could not be sent");
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}
