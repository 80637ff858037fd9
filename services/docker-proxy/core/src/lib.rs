//! Decides for the Docker API proxy: which calls matter, who is attached, how requests and replies are rewritten, and in
//! which order a container gets its addresses, its interface and its names.
//!
//! Nothing here performs IO or reads a clock. The shell (`weft-docker-proxy`) relays HTTP, asks the engine, calls the
//! other services and feeds what happened into [`Workflow`].

#![forbid(unsafe_code)]

pub mod address;
pub mod commit;
pub mod container;
pub mod create;
pub mod eligibility;
#[cfg(test)]
mod engine_model;
pub mod events;
pub mod health;
pub mod hostname;
pub mod image;
pub mod inspect;
mod json;
pub mod list;
pub mod names;
pub mod reconcile;
pub mod request;
pub mod route;
pub mod shim;
pub mod top;
pub mod weave_api;
pub mod workflow;

pub use address::AddressArgument;
pub use container::Container;
pub use eligibility::{Decision, Network};
pub use image::ImageConfig;
pub use json::MalformedBody;
pub use request::CreateRequest;
pub use route::Call;
pub use workflow::{Event, Outcome, Step, Workflow};
