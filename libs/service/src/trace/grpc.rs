//! Spans of gRPC calls on both sides, named and described as OpenTelemetry's semantic conventions say.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::Either;
use tonic::{Code, codegen::http};
use tower::{Layer, Service, layer::layer_fn};

use super::{Kind, Parent, Span, is_on};
use crate::metrics::code_name;

/// Calls that people make, which begin a trace. All others are part of one, or of none.
const BEGIN: [&str; 2] = ["/weft.proxy.v1.ContainerService/Attach", "/weft.proxy.v1.ContainerService/Detach"];

/// A call whose span is recorded.
type Recorded<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Continues the traces of a server's callers.
pub(crate) fn continued<S>() -> impl Layer<S, Service = Continued<S>> + Clone {
    layer_fn(|inner| Continued { inner })
}

/// A server that continues its callers' traces.
#[derive(Debug, Clone)]
pub(crate) struct Continued<S> {
    inner: S,
}

impl<S, B, R> Service<http::Request<B>> for Continued<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    R: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Recorded<Result<Self::Response, Self::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if !is_on() {
            return Either::Left(self.inner.call(request));
        }
        let parent = Parent::of_headers(request.headers());
        let path = request.uri().path();
        if !parent.is_some() && !BEGIN.contains(&path) {
            return Either::Left(self.inner.call(request));
        }
        let span = begin(Kind::Server, path, &parent);
        let answer = span.run(self.inner.call(request));
        Either::Right(Box::pin(async move {
            let answer = answer.await;
            end(&span, &answer, is_fault_of_server);
            answer
        }))
    }
}

/// A channel whose calls carry the trace that they are part of.
#[derive(Debug, Clone)]
pub struct Traced<S> {
    inner: S,
}

impl<S> Traced<S> {
    /// Makes one.
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, R> Service<http::Request<B>> for Traced<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    R: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Recorded<Result<Self::Response, Self::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let parent = Parent::current();
        if !parent.is_some() {
            return Either::Left(self.inner.call(request));
        }
        let span = begin(Kind::Client, request.uri().path(), &parent);
        span.parent().write(request.headers_mut());
        let answer = span.run(self.inner.call(request));
        Either::Right(Box::pin(async move {
            let answer = answer.await;
            end(&span, &answer, |code| code != Code::Ok);
            answer
        }))
    }
}

fn begin(kind: Kind, path: &str, parent: &Parent) -> Span {
    let method = path.trim_start_matches('/').to_owned();
    let span = Span::begin(kind, method.clone(), parent);
    span.set("rpc.system.name", "grpc");
    span.set("rpc.method", method);
    span
}

fn end<R, E>(span: &Span, answer: &Result<http::Response<R>, E>, is_fault: impl Fn(Code) -> bool) {
    let code = match answer {
        // A call that succeeds says so behind its answer.
        Ok(answer) => answer.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes())),
        Err(_) => Code::Unavailable,
    };
    let name = code_name(code).to_ascii_uppercase();
    span.set("rpc.response.status_code", name.clone());
    if is_fault(code) {
        span.set("error.type", name.clone());
        span.fail(name);
    }
}

/// Tells whether a server, rather than its caller, is to blame.
const fn is_fault_of_server(code: Code) -> bool {
    match code {
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    }
}
