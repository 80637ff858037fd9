//! Arguments of `publish`, `unpublish` and `import`.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};

/// How clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// A port of the host, at all of its addresses or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let odd = || format!("{text:?} is not a port of the host as in 8080, 192.0.2.1:8080 or [2001:db8::1]:8080");
        if let Ok(address) = text.parse::<SocketAddr>() {
            let port = number(&address.port().to_string()).map_err(|_| odd())?;
            return Ok(Self { address: Some(address.ip()), port });
        }
        Ok(Self { address: None, port: number(text).map_err(|_| odd())? })
    }
}

/// A name or an address, and a port there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let odd =
            |why: &str| format!("{text:?} is not a name or address with a port, as in web:80 or 10.32.0.5:80: {why}");
        let (host, port) = text.rsplit_once(':').ok_or_else(|| odd("the port is missing"))?;
        let port = number(port).map_err(|why| odd(&why))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<IpAddr>().is_ok() => address,
            Some(_) => return Err(odd("only addresses of IPv6 have brackets")),
            None if host.is_empty() => return Err(odd("the name is missing")),
            None if host.contains(':') => return Err(odd("an address of IPv6 has brackets around it")),
            None => host,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

fn number(text: &str) -> Result<u16, String> {
    // No sign, which numbers may have otherwise.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or_else(|| format!("{text:?} is not a port between 1 and 65535"))
}

/// Which protocol.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProtocolArguments {
    /// The same as --protocol udp.
    #[arg(long, conflicts_with = "protocol")]
    udp: bool,

    /// How clients speak.
    #[arg(long, value_name = "PROTOCOL", value_enum)]
    protocol: Option<Protocol>,
}

impl ProtocolArguments {
    pub(crate) const fn given(&self) -> Option<Protocol> {
        if self.udp { Some(Protocol::Udp) } else { self.protocol }
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    pub(crate) protocol: ProtocolArguments,

    /// Have each connection begin with a header that says who the client is: the PROXY protocol, version 2, which the container has to
    /// expect. TCP only.
    #[arg(long)]
    pub(crate) proxy_protocol: bool,

    /// A port of this host, 8080, or of one of its addresses, 192.0.2.1:8080.
    #[arg(value_name = "HOST-PORT")]
    pub(crate) port: HostPort,

    /// The name of containers, or the address of one, and the port there: web:80, 10.32.0.5:80, [fd12::5]:80.
    #[arg(value_name = "TARGET")]
    pub(crate) target: Target,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Unpublish {
    #[command(flatten)]
    pub(crate) protocol: ProtocolArguments,

    /// As `weft publish` was given it; without an address whatever address it was.
    #[arg(value_name = "HOST-PORT")]
    pub(crate) port: HostPort,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) protocol: ProtocolArguments,

    /// One word ("db"), or absolute within the domain of dns ("db.weft.internal").
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,

    /// Name or address of a host outside, and the port there: db.example.org:5432, 192.0.2.9:5432, [2001:db8::9]:5432.
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Target,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn ports_and_targets_are_read() {
        let parse = |line: &str| match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
            Ok(Command::Publish(Publish { protocol, proxy_protocol, port, target })) => {
                let address = port.address.map(|address| address.to_string());
                Ok((protocol.given(), proxy_protocol, address, port.port, target.host, target.port))
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err((error.exit_code(), error.to_string())),
        };
        let text = |text: &str| text.to_owned();
        for (line, expected) in [
            ("weft publish 8080 web:80", (None, false, None, 8080, text("web"), 80)),
            (
                "weft publish --udp 192.0.2.1:53 10.32.0.5:5353",
                (Some(Protocol::Udp), false, Some(text("192.0.2.1")), 53, text("10.32.0.5"), 5353),
            ),
            (
                "weft publish --protocol tcp --proxy-protocol [2001:db8::1]:80 [fd12::5]:8080",
                (Some(Protocol::Tcp), true, Some(text("2001:db8::1")), 80, text("fd12::5"), 8080),
            ),
        ] {
            assert_eq!(parse(line), Ok(expected), "{line}");
        }
        for (line, part) in [
            ("weft publish 8080", "required arguments"),
            ("weft publish 0 web:80", "\"0\" is not a port of the host"),
            ("weft publish 65536 web:80", "\"65536\" is not a port of the host"),
            ("weft publish +80 web:80", "\"+80\" is not a port of the host"),
            ("weft publish 192.0.2.1:0 web:80", "is not a port of the host"),
            ("weft publish 8080 web", "the port is missing"),
            ("weft publish 8080 :80", "the name is missing"),
            ("weft publish 8080 web:x", "\"x\" is not a port between"),
            ("weft publish 8080 fd12::5:80", "has brackets around it"),
            ("weft publish 8080 [web]:80", "only addresses of IPv6 have brackets"),
            ("weft publish --udp --protocol udp 8080 web:80", "cannot be used with"),
            ("weft import db", "required arguments"),
            ("weft import db db.example.org", "the port is missing"),
            ("weft import db 2001:db8::9:80", "has brackets around it"),
            ("weft unimport", "required arguments"),
            ("weft publish --protocol sctp 8080 web:80", "invalid value 'sctp'"),
        ] {
            let (code, text) = parse(line).expect_err(line);
            assert_eq!(code, 2, "{line}");
            assert!(text.contains(part), "{line}: {text}");
        }
    }
}
