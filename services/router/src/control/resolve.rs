//! Addresses of names, asked for at every try.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use tokio::task::spawn_blocking;
use weft_resolvers::Resolvers;
use weft_router_core::target::DialAddress;

/// Addresses of one name that are tried.
const ADDRESSES: usize = 16;

/// Largest hosts file that is read, in bytes: some list every advertiser.
const LARGEST_HOSTS: u64 = 16 << 20;

/// Returns where to dial, as the host would: by its /etc/hosts, then by the servers of its /etc/resolv.conf. Both are read
/// at each question, because they change; nothing is cached, because a peer may have moved. `root` is where the host's root
/// folder is seen.
///
/// # Errors
/// Why there is no address.
pub(crate) async fn resolve(root: &Path, address: &DialAddress) -> Result<Vec<SocketAddr>, String> {
    let (host, port) = match address {
        DialAddress::Endpoint(endpoint) => return Ok(vec![*endpoint]),
        DialAddress::Name { host, port } => (host, *port),
    };
    let root = root.to_owned();
    let resolver = spawn_blocking(move || resolver(&root)).await.map_err(|error| error.to_string())?;
    let resolver = resolver.map_err(|error| error.to_string())?;
    let found = resolver.lookup_ip(host.as_str()).await.map_err(|error| reason(&error))?;
    Ok(found.iter().take(ADDRESSES).map(|address| SocketAddr::new(address, port)).collect())
}

/// Says in a few words why a name has no address.
fn reason(error: &NetError) -> String {
    if error.is_no_records_found() { "no resolver of this host knows the name".to_owned() } else { error.to_string() }
}

/// Makes a resolver of what the host's files say now.
fn resolver(root: &Path) -> Result<TokioResolver, NetError> {
    let resolvers: Resolvers = first(root, "/etc/resolv.conf", weft_resolvers::read);
    let hosts: String = first(root, "/etc/hosts", |root, path| weft_resolvers::read_text(root, path, LARGEST_HOSTS));
    let servers = resolvers
        .servers
        .iter()
        .map(|address| NameServerConfig::new(*address, true, vec![ConnectionConfig::udp(), ConnectionConfig::tcp()]));
    let search = resolvers.search.iter().filter_map(|domain| domain.parse().ok()).collect();
    let config = ResolverConfig::from_parts(None, search, servers.collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.ndots = resolvers.ndots.map_or(options.ndots, usize::from);
    let mut resolver = builder.build()?;
    let mut known = Hosts::default();
    // Lines that make no sense are passed over; reading from memory does not fail.
    let _ = known.read_hosts_conf(hosts.as_bytes());
    resolver.set_hosts(Arc::new(known));
    Ok(resolver)
}

/// Reads a file of the host. Where it cannot be, the engine's copy of it counts, made when this container started; without
/// either there is nothing to go by.
fn first<T: Default>(
    root: &Path,
    path: &str,
    read: impl Fn(&Path, &Path) -> Result<T, weft_resolvers::ReadError>,
) -> T {
    let roots = [root.to_owned(), PathBuf::from("/")];
    let read = |root: &PathBuf| {
        read(root, Path::new(path)).inspect_err(|error| tracing::debug!(%error, "a file of the host is not used")).ok()
    };
    roots.iter().find_map(read).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use hickory_resolver::{
        net::{DnsError, NoRecords},
        proto::op::{Query, ResponseCode},
    };

    use super::*;

    #[test]
    fn who_has_no_address_is_told_in_words() {
        let none = NetError::Dns(DnsError::NoRecordsFound(NoRecords::new(Query::default(), ResponseCode::NXDomain)));
        assert_eq!(reason(&none), "no resolver of this host knows the name");
        assert_eq!(reason(&NetError::Truncated), NetError::Truncated.to_string());
    }

    async fn addresses(root: &Path, name: &str) -> Vec<String> {
        let address = DialAddress::Name { host: name.to_owned(), port: 6783 };
        let found = resolve(root, &address).await.unwrap_or_default();
        found.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn files_that_the_host_replaces_count_at_the_next_try() {
        let root = tempfile::tempdir().expect("a folder");
        let etc = root.path().join("etc");
        fs::create_dir(&etc).expect("made");
        fs::write(etc.join("resolv.conf"), "").expect("written");
        fs::write(etc.join("hosts"), "192.0.2.1 Host1 host1.example.org # first\nnonsense\n").expect("written");
        assert_eq!(addresses(root.path(), "host1").await, ["192.0.2.1:6783"]);
        assert_eq!(addresses(root.path(), "host2").await, [""; 0]);
        fs::write(etc.join("hosts.new"), "192.0.2.1 host1\n2001:db8::2 host2\n192.0.2.2 host2\n").expect("written");
        fs::rename(etc.join("hosts.new"), etc.join("hosts")).expect("renamed");
        assert_eq!(addresses(root.path(), "host2").await, ["192.0.2.2:6783", "[2001:db8::2]:6783"]);
        // As on hosts that keep the files elsewhere.
        fs::create_dir_all(root.path().join("run/hosts")).expect("made");
        fs::write(root.path().join("run/hosts/list"), "192.0.2.9 host1\n").expect("written");
        fs::remove_file(etc.join("hosts")).expect("removed");
        symlink("/run/hosts/list", etc.join("hosts")).expect("linked");
        assert_eq!(addresses(root.path(), "host1").await, ["192.0.2.9:6783"]);
    }
}
