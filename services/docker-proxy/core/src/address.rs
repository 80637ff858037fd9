//! Address arguments: what a user writes in `WEFT_CIDR`, in the label `weft.cidr`, or after `weft attach`.

use std::{fmt, str::FromStr};

use ipnet::Ipv4Net;

/// How many addresses one container may ask for.
pub const MAX_ARGUMENTS: usize = 64;

/// One address that a container is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressArgument {
    /// Any free address of the default subnet: `net:default`.
    Default,
    /// Any free address of this subnet, host bits clear: `net:a.b.c.d/len`.
    Subnet(Ipv4Net),
    /// This interface address: `a.b.c.d/len` or `ip:a.b.c.d/len`.
    Given(Ipv4Net),
}

/// An address argument cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidArgument {
    /// The word has no known form.
    #[error("\"{0}\" is not an address argument: write a.b.c.d/len, net:a.b.c.d/len or net:default")]
    Form(String),
    /// The subnet has bits set after its prefix.
    #[error("\"{argument}\" names no subnet: write net:{subnet}")]
    HostBits {
        /// What was given.
        argument: String,
        /// What was probably meant.
        subnet: Ipv4Net,
    },
    /// The subnet has no room.
    #[error("the subnet \"{0}\" has fewer than 4 addresses: take a prefix length of at most 30")]
    TooSmall(String),
    /// The address cannot be one container's.
    #[error("\"{0}\" is not an address that a container can have: take one inside its subnet")]
    NoHost(String),
    /// There are more arguments than a container may have.
    #[error("a container can have at most {MAX_ARGUMENTS} address arguments, got {0}")]
    TooMany(usize),
}

/// Parses a list separated by white space. An empty list means the default subnet; an argument that is repeated counts
/// once.
///
/// # Errors
/// [`InvalidArgument`] for the first argument that cannot be understood, or if there are more than [`MAX_ARGUMENTS`].
pub fn parse_list(text: &str) -> Result<Vec<AddressArgument>, InvalidArgument> {
    parse_words(text.split_whitespace())
}

/// Parses arguments that are already apart, with the rules of [`parse_list`].
///
/// # Errors
/// As [`parse_list`].
pub fn parse_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Vec<AddressArgument>, InvalidArgument> {
    let mut arguments = Vec::new();
    let mut count = 0;
    for word in words {
        count += 1;
        if count > MAX_ARGUMENTS {
            continue;
        }
        let argument = word.parse()?;
        if !arguments.contains(&argument) {
            arguments.push(argument);
        }
    }
    if count > MAX_ARGUMENTS {
        return Err(InvalidArgument::TooMany(count));
    }
    if arguments.is_empty() {
        arguments.push(AddressArgument::Default);
    }
    Ok(arguments)
}

impl FromStr for AddressArgument {
    type Err = InvalidArgument;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let clipped = || text.chars().take(64).collect::<String>();
        let parse = |rest: &str| rest.parse::<Ipv4Net>().map_err(|_| InvalidArgument::Form(clipped()));
        if text == "net:default" {
            return Ok(Self::Default);
        }
        if let Some(rest) = text.strip_prefix("net:") {
            let subnet = parse(rest)?;
            if subnet != subnet.trunc() {
                return Err(InvalidArgument::HostBits { argument: clipped(), subnet: subnet.trunc() });
            }
            if subnet.prefix_len() > 30 {
                return Err(InvalidArgument::TooSmall(clipped()));
            }
            return Ok(Self::Subnet(subnet));
        }
        let address = parse(text.strip_prefix("ip:").unwrap_or(text))?;
        let ip = address.addr();
        let ends_count = address.prefix_len() < 31;
        let an_end = ip == address.network() || ip == address.broadcast();
        if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() || (ends_count && an_end) {
            return Err(InvalidArgument::NoHost(clipped()));
        }
        Ok(Self::Given(address))
    }
}

impl fmt::Display for AddressArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("net:default"),
            Self::Subnet(subnet) => write!(f, "net:{subnet}"),
            Self::Given(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("valid")
    }

    #[test]
    fn each_form_is_understood() {
        use AddressArgument::{Default, Given, Subnet};
        let cases = [
            ("", vec![Default]),
            (" \t", vec![Default]),
            ("net:default", vec![Default]),
            ("10.2.1.1/24", vec![Given(net("10.2.1.1/24"))]),
            ("ip:10.2.1.1/24", vec![Given(net("10.2.1.1/24"))]),
            ("net:10.2.1.0/24", vec![Subnet(net("10.2.1.0/24"))]),
            ("10.2.1.1/32", vec![Given(net("10.2.1.1/32"))]),
            (
                "net:10.2.2.0/24  10.2.1.1/24 net:default",
                vec![Subnet(net("10.2.2.0/24")), Given(net("10.2.1.1/24")), Default],
            ),
            ("10.2.1.1/24 ip:10.2.1.1/24", vec![Given(net("10.2.1.1/24"))]),
        ];
        for (text, arguments) in cases {
            assert_eq!(parse_list(text), Ok(arguments), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_sentence() {
        let cases = [
            ("10.2.1.1", "\"10.2.1.1\" is not an address argument: write a.b.c.d/len, net:a.b.c.d/len or net:default"),
            ("net:10.2.1.1/24", "\"net:10.2.1.1/24\" names no subnet: write net:10.2.1.0/24"),
            (
                "net:10.2.1.0/31",
                "the subnet \"net:10.2.1.0/31\" has fewer than 4 addresses: take a prefix length of at most 30",
            ),
            ("10.2.1.0/24", "\"10.2.1.0/24\" is not an address that a container can have: take one inside its subnet"),
            (
                "10.2.1.255/24",
                "\"10.2.1.255/24\" is not an address that a container can have: take one inside its subnet",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(parse_list(text).expect_err(text).to_string(), message);
        }
        for text in
            ["none", "net:", "ip:", "10.2.1.1/33", "fd00::1/64", "224.0.0.1/24", "net:none", "10.2.1.1/24,net:x"]
        {
            assert!(parse_list(text).is_err(), "{text}");
        }
        let many = (0..65).map(|n| format!("10.2.1.{}/24", n + 1)).collect::<Vec<_>>().join(" ");
        assert_eq!(parse_list(&many), Err(InvalidArgument::TooMany(65)));
    }

    proptest! {
        #[test]
        fn text_form_round_trips(bits: u32, length in 0_u8..=32, kind in 0..3) {
            let net = Ipv4Net::new(bits.into(), length).expect("a length");
            let text = match kind {
                0 => format!("net:{}", net.trunc()),
                1 => net.to_string(),
                _ => "net:default".to_owned(),
            };
            if let Ok(argument) = text.parse::<AddressArgument>() {
                prop_assert_eq!(argument.to_string(), text);
            }
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_list(&text);
        }
    }
}
