//! Where spans go, as an operator writes it.

use std::{fmt, str::FromStr};

use tonic::transport::Uri;

/// Port of OTLP by gRPC.
const PORT: u16 = 4317;

/// Address of a receiver of OTLP by gRPC: `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint(Uri);

/// An address of a receiver makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: write http://host:port, as in http://127.0.0.1:4317")]
pub struct InvalidEndpoint(&'static str);

impl OtlpEndpoint {
    /// Returns what a connection is opened to.
    pub(super) fn uri(&self) -> Uri {
        self.0.clone()
    }
}

impl FromStr for OtlpEndpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let uri: Uri = text.trim().parse().map_err(|_| InvalidEndpoint("it is no address"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(InvalidEndpoint(
                    "weft speaks to a receiver on this host or a trusted network without TLS, and leaves https to a collector",
                ));
            }
            Some(_) | None => return Err(InvalidEndpoint("it does not begin with http://")),
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(InvalidEndpoint("OTLP by gRPC has no path"));
        }
        let authority = uri.authority().filter(|authority| !authority.host().is_empty() && !text.contains('@'));
        let authority = authority.ok_or(InvalidEndpoint("it names no host"))?;
        let port = authority.port_u16().unwrap_or(PORT);
        let complete = format!("http://{}:{port}/", authority.host());
        complete.parse().map(Self).map_err(|_| InvalidEndpoint("it is no address"))
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_or_refused() {
        for (text, complete) in [
            ("http://127.0.0.1:4317", "http://127.0.0.1:4317"),
            (" http://collector ", "http://collector:4317"),
            ("http://[::1]:1/", "http://[::1]:1"),
        ] {
            assert_eq!(text.parse::<OtlpEndpoint>().map(|endpoint| endpoint.to_string()), Ok(complete.to_owned()));
        }
        for text in [
            "",
            "127.0.0.1:4317",
            "https://a:1",
            "grpc://a",
            "http://",
            "http://a/v1/traces",
            "http://u:p@a",
            "http://a b",
        ] {
            let error = text.parse::<OtlpEndpoint>().expect_err(text).to_string();
            assert!(error.contains("write http://host:port"), "{error}");
        }
    }
}
