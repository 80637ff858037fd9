//! Keeps web pages from the Docker API on the TCP address: a browser of this host reaches it for whichever page it shows.
//!
//! A page is known by what its browser says of it: the `Origin` that the request comes from; where that is left out, as for
//! images, that the request is for another site than the page's (`Sec-Fetch-Site`); or, where a page had its own host name lead
//! to this host (DNS rebinding), that name as the `Host`. Docker clients send neither of the first two, and name the address
//! that they connect to.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::relay::{Answer, Interceptor, Request, RequestHead};

/// Longest part of what a client sent that is repeated to it, in characters.
const LONGEST_QUOTE: usize = 100;

/// What browsers say of the site of a page that asks for something of another origin (Fetch Metadata Request Headers, section
/// 2.4). `none` is what a person typed into the address bar.
const OTHER_SITE: [&[u8]; 2] = [b"cross-site", b"same-site"];

/// Looks into requests that came by TCP as into all others, but lets only those in that are of clients of this host.
#[derive(Debug, Clone)]
pub struct LocalClients<I> {
    inner: I,
    names: Names,
}

impl<I> LocalClients<I> {
    /// Makes one that knows this host by `names` too.
    #[must_use]
    pub const fn new(inner: I, names: Names) -> Self {
        Self { inner, names }
    }
}

impl<I: Interceptor> Interceptor for LocalClients<I> {
    fn refuses(&self, request: &RequestHead) -> Option<String> {
        self.names.refusal(request).or_else(|| self.inner.refuses(request))
    }

    fn wants(&self, method: &str, target: &str) -> bool {
        self.inner.wants(method, target)
    }

    async fn answer(&self, request: &Request) -> Answer {
        self.inner.answer(request).await
    }

    fn answered(&self, method: &str, target: &str, status: u16, added: Duration) {
        self.inner.answered(method, target, status, added);
    }
}

/// What tells that a request may be of a web page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// It says where it comes from.
    Page(String),
    /// It is for a host that is none of this host's names.
    Host(String),
}

/// Host names, beside `localhost`, by which clients reach the TCP address.
#[derive(Debug, Clone, Default)]
pub struct Names {
    names: Arc<[String]>,
    /// Addresses are this host's only on the loopback.
    loopback_only: bool,
}

impl Names {
    /// Reads names that commas separate.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let names = text.split(',').map(|name| name.trim().trim_end_matches('.').to_ascii_lowercase());
        Self { names: names.filter(|name| !name.is_empty()).collect(), loopback_only: false }
    }

    /// Knows by their address only those hosts that are this one: for what listens on the loopback alone.
    #[must_use]
    pub(crate) fn without_foreign_addresses(self) -> Self {
        Self { loopback_only: true, ..self }
    }

    /// Returns why a request is not let in, if it is not: one sentence.
    fn refusal(&self, request: &RequestHead) -> Option<String> {
        Some(match self.foreign(|name| request.head.values(name))? {
            Foreign::Page(page) => {
                format!(
                    "this request is of a web page ({page}), which may not use the Docker API: it gives root on the host"
                )
            }
            Foreign::Host(host) => format!(
                "this request is for the host {host}, as those of web pages may be that had their name lead here: name the \
                 address, as in DOCKER_HOST=tcp://127.0.0.1:12375, or add the name to WEFT_DOCKER_PROXY_TCP_NAMES"
            ),
        })
    }

    /// Tells by the values of a request's fields whether it may be of a web page, and how that is known.
    pub(crate) fn foreign<'a, I>(&self, values: impl Fn(&'static str) -> I) -> Option<Foreign>
    where
        I: Iterator<Item = &'a [u8]>,
    {
        let other_site = values("sec-fetch-site")
            .find(|site| OTHER_SITE.iter().any(|other| site.trim_ascii().eq_ignore_ascii_case(other)));
        if let Some(origin) = values("origin").next().or(other_site) {
            return Some(Foreign::Page(quote(origin)));
        }
        values("host").find(|host| !self.has(host)).map(|host| Foreign::Host(quote(host)))
    }

    /// Tells whether the value of a field `Host` is an address, or a name that nobody outside can make lead here.
    fn has(&self, host: &[u8]) -> bool {
        let Ok(host) = std::str::from_utf8(host) else { return false };
        let host = without_port(host.trim()).trim_end_matches('.').to_ascii_lowercase();
        let is_own = |address: IpAddr| !self.loopback_only || address.to_canonical().is_loopback();
        host.is_empty()
            || host.parse().is_ok_and(is_own)
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.names.contains(&host)
    }
}

/// Returns the host of `host:port` or `[host]:port`.
fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

fn quote(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim().chars().take(LONGEST_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_of_this_host_are_let_in() {
        let names = Names::parse("docker.example., Other");
        for host in [
            "127.0.0.1:12375",
            "127.0.0.1",
            "[::1]:12375",
            "[::1]",
            "localhost:12375",
            "LOCALHOST",
            "localhost.",
            "api.moby.localhost",
            "docker.example:1",
            "other",
            "",
        ] {
            assert!(names.has(host.as_bytes()), "{host}");
        }
        for host in [
            "attacker.example:12375",
            "127.0.0.1.attacker.example",
            "localhost.attacker.example",
            "localhost@attacker.example",
            "notlocalhost",
            "docker",
            "[attacker.example]:1",
            "127.0.0.1:12375:attacker",
            "\u{e9}",
        ] {
            assert!(!names.has(host.as_bytes()), "{host}");
        }
        assert!(!names.has(b"\xff"));
        assert!(!Names::default().has(b"docker.example"));
        let local = names.clone().without_foreign_addresses();
        for (host, is_own) in [("127.9.9.9:6784", true), ("[::1]", true), ("localhost:1", true), ("other", true)] {
            assert_eq!(local.has(host.as_bytes()), is_own, "{host}");
        }
        for (host, is_own) in [("192.0.2.1:6784", true), ("[2001:db8::1]", true)] {
            assert!(names.has(host.as_bytes()) == is_own && !local.has(host.as_bytes()), "{host}");
        }
    }
}
