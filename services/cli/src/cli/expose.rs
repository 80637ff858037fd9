//! Arguments of `expose` and `hide`.

use clap::{ArgAction, Args, builder::NonEmptyStringValueParser};
use weft_docker_proxy_core::address::AddressArgument;

#[derive(Debug, Clone, Args)]
pub(crate) struct Expose {
    /// `a.b.c.d/len` for this address, `net:a.b.c.d/len` for any of a subnet, or `net:default` for any of the default subnet, which is
    /// also what no address means.
    #[arg(value_name = "ADDRESS")]
    pub(crate) addresses: Vec<AddressArgument>,

    /// A name that means these addresses for all containers, until they are hidden: one word ("gateway"), or absolute within the domain
    /// of dns ("gateway.weft.internal").
    #[arg(short = 'h', long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,

    /// Keep source addresses. Containers then see who comes through this host, and need a route back; what is outside sees containers,
    /// and needs a route to them by this host.
    #[arg(long)]
    pub(crate) without_masquerade: bool,

    /// Print help.
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Hide {
    /// As `weft expose` was given them.
    #[arg(value_name = "ADDRESS")]
    pub(crate) addresses: Vec<AddressArgument>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    #[test]
    fn addresses_are_those_of_attach() {
        let parse = |line: &str| match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
            Ok(Command::Expose(what)) => {
                let addresses = what.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                Ok((addresses, what.name, what.without_masquerade))
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err((error.exit_code(), error.to_string())),
        };
        let gateway = || Some("gateway".to_owned());
        for (line, given, name, without) in [
            ("weft expose", "", None, false),
            ("weft expose net:default net:10.40.0.0/24", "net:default net:10.40.0.0/24", None, false),
            ("weft expose 10.32.0.9/12 -h gateway", "10.32.0.9/12", gateway(), false),
            ("weft expose -h gateway --without-masquerade ip:10.32.0.9/12", "10.32.0.9/12", gateway(), true),
        ] {
            assert_eq!(parse(line), Ok((given.to_owned(), name, without)), "{line}");
        }
        for (line, part) in [
            ("weft expose gateway", "\"gateway\" is not an address argument"),
            ("weft expose 10.32.0.9", "\"10.32.0.9\" is not an address argument"),
            ("weft expose 10.32.0.0/12", "take one inside its subnet"),
            ("weft expose net:10.32.0.9/12", "write net:10.32.0.0/12"),
            ("weft expose -h", "a value is required"),
            ("weft expose --skip-nat", "unexpected argument"),
        ] {
            let (code, text) = parse(line).expect_err(line);
            assert_eq!(code, 2, "{line}");
            assert!(text.contains(part), "{line}: {text}");
        }
        assert_eq!(parse("weft expose --help").map_err(|(code, _)| code), Err(0));
    }
}
