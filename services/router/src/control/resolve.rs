//! Addresses of names, asked for at every try.

use std::net::SocketAddr;

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use weft_router_core::target::DialAddress;

/// Addresses of one name that are tried.
const ADDRESSES: usize = 16;

/// Returns where to dial, as the host would: by /etc/hosts, then by the servers of /etc/resolv.conf. Both are read at
/// each question, because they change; nothing is cached, because a peer may have moved.
///
/// # Errors
/// Why there is no address.
pub(super) async fn resolve(address: &DialAddress) -> Result<Vec<SocketAddr>, String> {
    let (host, port) = match address {
        DialAddress::Endpoint(endpoint) => return Ok(vec![*endpoint]),
        DialAddress::Name { host, port } => (host, *port),
    };
    let resolver = resolver().map_err(|error| error.to_string())?;
    let found = resolver.lookup_ip(host.as_str()).await.map_err(|error| error.to_string())?;
    Ok(found.iter().take(ADDRESSES).map(|address| SocketAddr::new(address, port)).collect())
}

fn resolver() -> Result<TokioResolver, hickory_resolver::net::NetError> {
    // Without servers, /etc/hosts can still answer.
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
        TokioResolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
    });
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    builder.build()
}
