//! How weft's services define, keep and expose metrics.
//!
//! A service defines its metrics as [`Family`]s, from which `docs/metrics.md` is made too. What it counts as it happens it
//! counts by handles of a [`Registry`]; what it knows anyway it writes into a [`Sheet`] when it is asked, so that nothing is
//! counted twice and nothing is shown of what is gone. An [`Exposition`] renders both. The router [`merge`]s what all
//! services of its host render.

#![forbid(unsafe_code)]

mod exposition;
mod family;
mod process;
mod registry;
pub mod shared;
mod sheet;
pub mod testing;

pub use exposition::{MetricFamily, merge};
pub use family::{Family, InvalidFamily, Kind, Label, Unit, check};
pub use metrics::{Counter, Gauge, Histogram};
pub use registry::{Collect, Exposition, Registry};
pub use sheet::Sheet;
