//! Metrics that every service has, told apart by its name.

use crate::{Family, Label, Unit};

const SERVICE: Label = Label::new("service", "`router`, `ipam`, `dns`, `docker-proxy`");

/// Whether a service answered.
pub const UP: Family = Family::gauge(
    "weft_up",
    Unit::Truth,
    "Whether the service answered this scrape; if not, its other metrics are missing.",
)
.by(&[SERVICE]);

/// Which version of weft a service is.
pub const BUILD_INFO: Family =
    Family::gauge("weft_build_info", Unit::Truth, "Always 1; the version of weft that the service is of is a label.")
        .by(&[SERVICE, Label::new("version", "as `weft version` prints it")]);

/// How much does not work.
pub const PROBLEMS: Family =
    Family::gauge("weft_problems", Unit::Count, "What does not work now, as `weft status` lists it.").by(&[SERVICE]);

/// Since when something does not work.
pub const PROBLEM_AGE: Family = Family::gauge(
    "weft_problem_age_seconds",
    Unit::Seconds,
    "How long something has not worked; the oldest of those with one reason counts.",
)
.by(&[SERVICE, Label::new("reason", "the word that `weft status --output json` has for it")])
.when("while a problem lasts");

/// Calls of the service's own interface.
pub const GRPC_REQUESTS: Family = Family::counter(
    "weft_grpc_requests_total",
    Unit::Count,
    "Calls on the service's socket, by method and by how they ended.",
)
.by(&[
    SERVICE,
    Label::new("method", "as in `AddressService/Allocate`; `other` for those there are not"),
    Label::new("code", "gRPC's status code, as in `ok`, `unavailable`"),
])
.when("once there was a call");

/// How long such calls take.
pub const GRPC_DURATION: Family = Family::histogram(
    "weft_grpc_request_duration_seconds",
    Unit::Seconds,
    &[0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0],
    "How long calls on the service's socket took until the answer began.",
)
.by(&[SERVICE, Label::new("method", "as in `AddressService/Allocate`; `other` for those there are not")])
.when("once there was a call");

/// What became of spans.
pub const TRACE_SPANS: Family = Family::counter(
    "weft_trace_spans_total",
    Unit::Count,
    "Spans that the service handed on, the router those of all services, and spans that it lost.",
)
.by(&[SERVICE, Label::new("result", "`sent`; `lost`: nobody took them for too long, or they were refused")])
.when("while traces are on");

/// Processor time.
pub const CPU: Family =
    Family::counter("process_cpu_seconds_total", Unit::Seconds, "Processor time that the process has used.")
        .by(&[SERVICE]);

/// Memory in use.
pub const RESIDENT_MEMORY: Family =
    Family::gauge("process_resident_memory_bytes", Unit::Bytes, "Memory that the process has in use.").by(&[SERVICE]);

/// Address space.
pub const VIRTUAL_MEMORY: Family =
    Family::gauge("process_virtual_memory_bytes", Unit::Bytes, "Address space of the process.").by(&[SERVICE]);

/// Open files.
pub const OPEN_FDS: Family =
    Family::gauge("process_open_fds", Unit::Count, "Files and sockets that the process has open.").by(&[SERVICE]);

/// Limit of open files.
pub const MAX_FDS: Family =
    Family::gauge("process_max_fds", Unit::Count, "Files and sockets that the process may have open.").by(&[SERVICE]);

/// Threads.
pub const THREADS: Family = Family::gauge("process_threads", Unit::Count, "Threads of the process.").by(&[SERVICE]);

/// When the process started.
pub const START_TIME: Family = Family::gauge(
    "process_start_time_seconds",
    Unit::Seconds,
    "When the process started, in seconds since 1970 by the host's clock.",
)
.by(&[SERVICE]);

/// All of them.
pub const FAMILIES: &[Family] = &[
    UP,
    BUILD_INFO,
    PROBLEMS,
    PROBLEM_AGE,
    GRPC_REQUESTS,
    GRPC_DURATION,
    TRACE_SPANS,
    CPU,
    RESIDENT_MEMORY,
    VIRTUAL_MEMORY,
    OPEN_FDS,
    MAX_FDS,
    THREADS,
    START_TIME,
];
