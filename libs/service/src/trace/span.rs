//! Spans, and the context that joins them.

use std::{
    borrow::Cow,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::Either;
pub use opentelemetry::trace::SpanKind as Kind;
use opentelemetry::{
    Context, ContextGuard, KeyValue, SpanId, TraceId, Value,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{FutureExt as _, SpanContext, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};

/// Headers of W3C Trace Context.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Longest state of other vendors that is passed on, in bytes; the standard asks for 512.
const LONGEST_STATE: usize = 4096;

/// Longest text of a span, in characters: names come from clients, and a receiver refuses messages that are too large.
const LONGEST_TEXT: usize = 256;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Records from now on.
pub(super) fn record(provider: &SdkTracerProvider) {
    // Who records already, goes on.
    let _ = TRACER.set(provider.tracer("weft"));
    IS_ON.store(true, Ordering::Relaxed);
}

/// Tells whether anything is recorded in this process.
#[must_use]
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Returns which trace and span the present task is in.
pub(crate) fn ids() -> Option<(TraceId, SpanId)> {
    Parent::current().0.map(|context| (context.trace_id(), context.span_id()))
}

/// What a span is part of: another span, here or in another process, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Parent(Option<SpanContext>);

impl Parent {
    /// Returns the span that the present task is in.
    #[must_use]
    pub fn current() -> Self {
        if !is_on() {
            return Self(None);
        }
        Self::of(&Context::map_current(|context| context.span().span_context().clone()))
    }

    /// Reads the values of a message's headers `traceparent` and `tracestate`. What makes no sense is as if it were not there.
    #[must_use]
    pub fn received<'a>(
        traceparent: impl IntoIterator<Item = &'a [u8]>,
        tracestate: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        if !is_on() {
            return Self(None);
        }
        let mut parents = traceparent.into_iter();
        let (Some(parent), None) = (parents.next(), parents.next()) else { return Self(None) };
        let Ok(parent) = std::str::from_utf8(parent) else { return Self(None) };
        let states: Option<Vec<&str>> = tracestate.into_iter().map(|state| std::str::from_utf8(state).ok()).collect();
        let state = states.unwrap_or_default().join(",");
        let received = Received { parent, state: if state.len() > LONGEST_STATE { "" } else { &state } };
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &received);
        Self::of(context.span().span_context())
    }

    /// Reads the headers of a message.
    pub(crate) fn of_headers(headers: &HeaderMap) -> Self {
        let values = |name| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        Self::received(values(TRACEPARENT), values(TRACESTATE))
    }

    /// Writes the headers of a message.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        if self.is_some() {
            TraceContextPropagator::new().inject_context(&self.context(), &mut Sent(headers));
        }
    }

    /// Tells whether there is one.
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Runs a future as part of it.
    pub fn run<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        match self.is_some() {
            true => Either::Left(future.with_context(self.context())),
            false => Either::Right(future),
        }
    }

    /// Makes what is done in this thread part of it, until what is returned is dropped.
    #[must_use]
    pub fn enter(&self) -> Entered {
        Entered { _guard: self.is_some().then(|| self.context().attach()) }
    }

    fn of(context: &SpanContext) -> Self {
        Self(context.is_valid().then(|| context.clone()))
    }

    fn context(&self) -> Context {
        self.0.clone().map_or_else(Context::new, |context| Context::new().with_remote_span_context(context))
    }
}

/// The present thread works on a span.
#[derive(Debug)]
pub struct Entered {
    _guard: Option<ContextGuard>,
}

/// Something that is done, from its beginning until it is dropped. While nothing is recorded, it is nothing.
#[derive(Debug, Default)]
pub struct Span(Option<Context>);

impl Span {
    /// Returns one of which nothing is recorded.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Begins as part of `parent`; without one, begins a trace.
    #[must_use]
    pub fn begin(kind: Kind, name: impl Into<Cow<'static, str>>, parent: &Parent) -> Self {
        let Some(tracer) = TRACER.get() else { return Self(None) };
        let parent = parent.context();
        let span = tracer.span_builder(cut(name.into())).with_kind(kind).start_with_context(tracer, &parent);
        Self(Some(parent.with_span(span)))
    }

    /// Begins as part of what the present task does; if that is in no trace, nothing is recorded.
    #[must_use]
    pub fn part(kind: Kind, name: impl Into<Cow<'static, str>>) -> Self {
        let parent = Parent::current();
        if parent.is_some() { Self::begin(kind, name, &parent) } else { Self(None) }
    }

    /// Notes an attribute, of a text its beginning.
    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(name, cut_value(value.into())));
        }
    }

    /// Notes that it failed, and why.
    pub fn fail(&self, reason: impl Into<Cow<'static, str>>) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(cut(reason.into())));
        }
    }

    /// Runs a future as part of it.
    pub fn run<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        match self.0.clone() {
            Some(context) => Either::Left(future.with_context(context)),
            None => Either::Right(future),
        }
    }

    /// Returns what others can be part of, also when it is over.
    #[must_use]
    pub fn parent(&self) -> Parent {
        self.0.as_ref().map(|context| Parent::of(context.span().span_context())).unwrap_or_default()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

fn cut(text: Cow<'static, str>) -> Cow<'static, str> {
    match beginning(&text) {
        Some(beginning) => beginning.to_owned().into(),
        None => text,
    }
}

fn cut_value(value: Value) -> Value {
    if let Value::String(text) = &value
        && let Some(beginning) = beginning(text.as_str())
    {
        return beginning.to_owned().into();
    }
    value
}

/// Returns what is kept of a text that is too long.
fn beginning(text: &str) -> Option<&str> {
    text.char_indices().nth(LONGEST_TEXT).and_then(|(end, _)| text.get(..end))
}

struct Received<'a> {
    parent: &'a str,
    state: &'a str,
}

impl Extractor for Received<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => Some(self.parent),
            TRACESTATE => Some(self.state),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

struct Sent<'a>(&'a mut HeaderMap);

impl Injector for Sent<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(key.as_bytes()), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        let long = "ä".repeat(LONGEST_TEXT);
        assert_eq!(cut(long.clone().into()), long);
        assert_eq!(cut(format!("{long}ä").into()), long);
        assert_eq!(cut_value(format!("{long}ä").into()), Value::from(long));
        assert_eq!(cut_value(7_i64.into()), Value::from(7_i64));
    }

    #[test]
    fn while_nothing_is_recorded_nothing_begins_and_nothing_is_continued() {
        let caller = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".as_slice();
        let parent = Parent::received([caller], []);
        assert!(!parent.is_some());
        let span = Span::begin(Kind::Server, "call", &parent);
        assert!(span.0.is_none());
        let mut headers = HeaderMap::new();
        span.parent().write(&mut headers);
        assert!(headers.is_empty());
        assert_eq!(ids(), None);
    }
}
