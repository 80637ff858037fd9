//! Relays the Docker API between clients and the engine, byte for byte where nothing has to be rewritten.
//!
//! Each client connection is one task. It reads one request head after the other, opens a connection to the engine for each,
//! and passes heads and bodies on as they came. What it needs to understand of HTTP/1.1 is where a message ends
//! (RFC 9112, section 6); where that is not certain, the request is refused, so that the engine never sees another message
//! than the one that was looked at.

mod body;
mod chunks;
mod connection;
mod head;
mod message;
mod reader;

pub use connection::{Interceptor, exchange, serve};
pub use head::{Head, HeadError, RequestHead, ResponseHead};
pub use message::{Answer, EngineTime, Request};
