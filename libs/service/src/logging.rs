//! Structured logs on stderr, and what is logged.

use std::{
    fmt,
    io::IsTerminal,
    sync::{Mutex, OnceLock, PoisonError},
};

use opentelemetry::{SpanId, TraceId};
use tonic::{Request, Response, Status};
use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    fmt::{
        FmtContext, FormatEvent, FormatFields, format,
        format::{JsonFields, Writer},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};
use weft_proto::common::v1::{
    SetLogLevelRequest, SetLogLevelResponse,
    log_service_server::{LogService, LogServiceServer},
};

use crate::CommonOptions;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A log level makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log level {level:?} is not valid: write error, warn, info, debug, trace or off, or directives such as \
     \"info,weft_router=debug\""
)]
struct InvalidLevel {
    level: String,
}

/// What is logged; to be changed while the service runs.
#[derive(Debug)]
struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
    /// As it was given.
    level: Mutex<String>,
}

/// That of this process, whose log is one.
static LEVEL: OnceLock<LogLevel> = OnceLock::new();

impl LogLevel {
    /// Changes what is logged, and returns what was.
    fn set(&self, level: &str) -> Result<String, InvalidLevel> {
        let filter = parse(level)?;
        let mut present = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.filter.reload(filter) {
            // The log lives as long as the process, so this cannot be.
            tracing::error!(%error, "failed to change the log level");
            return Ok(present.clone());
        }
        let previous = std::mem::replace(&mut *present, level.to_owned());
        tracing::info!(level, previous, "the log level was changed");
        Ok(previous)
    }
}

/// Reads what is to be logged. Stricter than the filter itself, which takes a misspelt level for the name of a module.
fn parse(level: &str) -> Result<EnvFilter, InvalidLevel> {
    let invalid = || InvalidLevel { level: level.to_owned() };
    // As syslog, and with it many a script, spells it.
    let directives: Vec<_> = level.split(',').map(|part| if part == "warning" { "warn" } else { part }).collect();
    let level = &directives.join(",");
    let is_sound = |directive: &str| {
        directive.contains(['=', '[']) || directive.is_empty() || directive.parse::<LevelFilter>().is_ok()
    };
    if level.trim().is_empty() || !level.split(',').all(is_sound) {
        return Err(invalid());
    }
    EnvFilter::builder().parse(level).map_err(|_| invalid())
}

/// Reads the level that a service starts with.
pub(crate) fn parse_option(level: &str) -> Result<String, String> {
    parse(level).map(|_| level.to_owned()).map_err(|error| error.to_string())
}

/// Starts logging.
///
/// # Panics
/// Never: the option's level was read before.
pub(crate) fn start(options: &CommonOptions) {
    let level = options.log_level.as_str();
    let (filter, handle) = reload::Layer::new(parse(level).expect("the option was read"));
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let lines = match options.log_format {
        LogFormat::Text => lines.event_format(text(colours)).boxed(),
        LogFormat::Json => lines.fmt_fields(JsonFields::new()).event_format(json()).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    // Logging starts once: the line above would not let it start again.
    let _ = LEVEL.set(LogLevel { filter: handle, level: Mutex::new(level.to_owned()) });
}

fn text(colours: bool) -> WithTrace<format::Format> {
    WithTrace { format: format().with_ansi(colours), append: |line, ids| format!("{line} {ids}") }
}

fn json() -> WithTrace<format::Format<format::Json>> {
    WithTrace {
        format: format().json().flatten_event(true),
        append: |line, Ids { trace, span }| {
            let object = line.strip_suffix('}').unwrap_or(line);
            format!("{object},\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"}}")
        },
    }
}

/// Adds to lines which trace they were written in, if in one.
struct WithTrace<F> {
    format: F,
    append: fn(&str, &Ids) -> String,
}

/// A span, in the words that OpenTelemetry has for logs.
struct Ids {
    trace: TraceId,
    span: SpanId,
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trace_id={} span_id={}", self.trace, self.span)
    }
}

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some((trace, span)) = crate::trace::ids() else {
            return self.format.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}", (self.append)(line.trim_end(), &Ids { trace, span }))
    }
}

/// Returns what changes this process' log level on request.
pub(crate) fn served() -> LogServiceServer<impl LogService> {
    LogServiceServer::new(Served)
}

#[derive(Debug)]
struct Served;

#[tonic::async_trait]
impl LogService for Served {
    async fn set_level(&self, request: Request<SetLogLevelRequest>) -> Result<Response<SetLogLevelResponse>, Status> {
        let Some(level) = LEVEL.get() else {
            return Err(Status::failed_precondition("this process does not log"));
        };
        let previous =
            level.set(&request.into_inner().level).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(SetLogLevelResponse { previous }))
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn what_is_no_level_is_refused_in_one_sentence() {
        for level in ["", " ", "verbose", "info,loud", "weft_router=loud", "info,[", "debug;trace"] {
            let error = parse(level).expect_err(level).to_string();
            assert!(error.starts_with(&format!("the log level {level:?} is not valid: write error")), "{error}");
        }
        for level in [
            "info",
            "WARN",
            "warning",
            "off",
            "info,weft_router=debug",
            "info,weft_ipam::driver=trace",
            "info,[a]=debug",
        ] {
            assert!(parse(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn ids_are_added_as_their_format_wants() {
        let ids = Ids { trace: TraceId::from(0x1a), span: SpanId::from(0x2b) };
        let (trace, span) = ("0000000000000000000000000000001a", "000000000000002b");
        let line = (text(false).append)("INFO attached", &ids);
        assert_eq!(line, format!("INFO attached trace_id={trace} span_id={span}"));
        let line = (json().append)(r#"{"message":"attached"}"#, &ids);
        assert_eq!(line, format!(r#"{{"message":"attached","trace_id":"{trace}","span_id":"{span}"}}"#));
    }

    #[test]
    fn the_level_changes_while_the_service_runs() {
        let (filter, handle) = reload::Layer::new(parse("warn").expect("valid"));
        let level = LogLevel { filter: handle, level: Mutex::new("warn".to_owned()) };
        let subscriber = tracing_subscriber::registry()
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(Level::INFO));
            assert_eq!(level.set("debug"), Ok("warn".to_owned()));
            assert!(tracing::enabled!(Level::DEBUG));
            assert!(level.set("verbose").is_err());
            assert!(tracing::enabled!(Level::DEBUG));
            assert_eq!(level.set("warn"), Ok("debug".to_owned()));
            assert!(!tracing::enabled!(Level::INFO));
        });
    }
}
