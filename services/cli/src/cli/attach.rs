//! Arguments of `attach`.

use std::net::IpAddr;

use clap::Args;
use weft_proto::proxy::v1::{AttachRequest, Choices};
use weft_types::AllowedAddresses;

use super::Addresses;

#[derive(Debug, Clone, Args)]
pub(crate) struct Attach {
    /// Register no names for the container. What its resolver is stays as it is.
    #[arg(long)]
    without_dns: bool,

    /// Write the container's addresses into its /etc/hosts, also where docker-proxy does so for no container.
    #[arg(long)]
    rewrite_hosts: bool,

    /// Leave the container's /etc/hosts as it is.
    #[arg(long, conflicts_with = "rewrite_hosts")]
    no_rewrite_hosts: bool,

    /// A further line in the container's /etc/hosts, beside those that it was made with. May be given several times.
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = host, conflicts_with = "no_rewrite_hosts")]
    add_host: Vec<String>,

    /// Do not route multicast to the overlay in the container. A route that is there stays.
    #[arg(long)]
    no_multicast_route: bool,

    /// Floating addresses: the container may give itself these too, as in 10.32.0.100,10.40.1.0/28,fd00::7, instead of those that its
    /// label weft.allowed-addresses says. At most 256; none if it is empty.
    #[arg(long, value_name = "ADDRESSES")]
    allowed_addresses: Option<AllowedAddresses>,

    #[command(flatten)]
    what: Addresses,
}

impl Attach {
    /// Returns what docker-proxy is asked for.
    pub(crate) fn into_request(self) -> AttachRequest {
        let Self {
            without_dns,
            rewrite_hosts,
            no_rewrite_hosts,
            add_host,
            no_multicast_route,
            allowed_addresses,
            what,
        } = self;
        let rewrite = rewrite_hosts || !add_host.is_empty();
        let (addresses, container) = what.split();
        let choices = Choices {
            allowed_addresses: allowed_addresses.map(|allowed| allowed.to_string()),
            names: without_dns.then_some(false),
            rewrite_hosts: (rewrite || no_rewrite_hosts).then_some(rewrite),
            extra_hosts: add_host,
            multicast_route: no_multicast_route.then_some(false),
        };
        AttachRequest { container, addresses, choices: Some(choices) }
    }
}

/// Reads a line for /etc/hosts as `docker run --add-host` does.
fn host(text: &str) -> Result<String, String> {
    let is_name =
        |name: &str| !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#');
    let parts = text
        .split_once([':', '='])
        .filter(|(name, address)| is_name(name) && address.trim_matches(['[', ']']).parse::<IpAddr>().is_ok());
    parts.map(|_| text.to_owned()).ok_or_else(|| "write a name and an address, as in db:192.0.2.9".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn request(line: &str) -> Result<AttachRequest, String> {
        match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
            Ok(Command::Attach(attach)) => Ok(attach.into_request()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_is_not_chosen_is_not_said() {
        let choices = |line: &str| request(line).expect(line).choices.expect("always there");
        assert_eq!(choices("weft attach net:default db"), Choices::default());
        let expected = Choices {
            allowed_addresses: Some("10.32.0.100,10.40.1.0,10.40.1.1".to_owned()),
            names: Some(false),
            rewrite_hosts: Some(true),
            extra_hosts: vec!["a:10.0.0.1".to_owned(), "b:fd00::1".to_owned()],
            multicast_route: Some(false),
        };
        let line = "weft attach --without-dns --add-host a:10.0.0.1 --add-host b:fd00::1 --no-multicast-route \
                    --allowed-addresses 10.32.0.100,10.40.1.0/31 10.32.1.1/12 db";
        assert_eq!(choices(line), expected);
        let request = request(line).expect("parses");
        assert_eq!((request.addresses, request.container), (vec!["10.32.1.1/12".to_owned()], "db".to_owned()));
        assert_eq!(choices("weft attach --no-rewrite-hosts db").rewrite_hosts, Some(false));
        assert_eq!(choices("weft attach --allowed-addresses= db").allowed_addresses, Some(String::new()));
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        for (line, says) in [
            ("weft attach --rewrite-hosts --no-rewrite-hosts db", "cannot be used with"),
            ("weft attach --add-host db db", "db:192.0.2.9"),
            ("weft attach --add-host db:web db", "db:192.0.2.9"),
            ("weft attach --allowed-addresses 10.32.0.0/12 db", "256 addresses at most"),
            ("weft attach --allowed-addresses 10.32.0.100/12 db", "10.32.0.100 for the one"),
            ("weft attach --without-dns", "required arguments"),
        ] {
            let error = request(line).expect_err(line);
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
