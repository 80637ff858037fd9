//! Reads requests of Weave Net's HTTP API: which call each is, and what it is about.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use http::Method;
use ipnet::Ipv4Net;
use weft_types::ContainerId;

use crate::route::percent_decode;

/// Longest part of what a client sent that is repeated to it, in characters.
const LONGEST_QUOTE: usize = 100;

/// Most fields of one request.
const MOST_FIELDS: usize = 1024;

/// All methods that some path has.
const METHODS: [Method; 4] = [Method::GET, Method::POST, Method::PUT, Method::DELETE];

/// Holder of the host's own addresses, as Weave Net and weft call it.
const EXPOSE: (&str, &str) = ("weave:expose", "weft:expose");

/// What weft's own holders begin with.
const OWN: &str = "weft:";

/// Holder of names that are no container's, as Weave Net calls it.
const EXTERN: &str = "weave:extern";

/// Weave Net's holder of an address that is nobody's: the address holds itself.
const ANONYMOUS: &str = "_";

/// A call of Weave Net's HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `GET /status`, `GET /status/…`.
    Status(About),
    /// `GET /report`, by a template as Go has them; without one as JSON.
    Report(Option<String>),
    /// `GET /metrics`.
    Metrics,
    /// `POST /connect`.
    Connect {
        /// Peers to connect with.
        peers: Vec<String>,
        /// Forget all others.
        replace: bool,
    },
    /// `POST /forget`.
    Forget {
        /// Peers that are no targets any more.
        peers: Vec<String>,
    },
    /// `GET /domain`.
    Domain,
    /// `GET /dns-address`, `GET /dns-address-port`.
    DnsAddress {
        /// With the port.
        port: bool,
    },
    /// `GET /proxyaddrs`.
    ProxyAddresses,
    /// `PUT /name/{container}/{ip}`.
    AddName {
        /// Whose it is.
        holder: NameHolder,
        /// What it means.
        address: IpAddr,
        /// As given, mostly absolute.
        name: String,
        /// Only if the container runs.
        check_alive: bool,
    },
    /// `DELETE /name…`: what was given by hand and has all of these. Something is always named.
    RemoveNames {
        /// Whose.
        holder: Option<NameHolder>,
        /// What they mean.
        address: Option<IpAddr>,
        /// Which one.
        name: Option<String>,
    },
    /// `GET /name`.
    ListNames,
    /// `POST /ip/{id}…`.
    Allocate {
        /// For whom.
        holder: ContainerId,
        /// Of which subnet; the default one if none is named.
        subnet: Option<Ipv4Net>,
        /// Only if the container runs.
        check_alive: bool,
    },
    /// `GET /ip/{id}…`.
    Lookup {
        /// Whose addresses.
        holder: ContainerId,
        /// Of which subnet; the default one if none is named.
        subnet: Option<Ipv4Net>,
    },
    /// `PUT /ip/{id}/{ip}/{len}`.
    Claim {
        /// For whom.
        holder: ContainerId,
        /// Which address.
        address: Ipv4Net,
        /// Only if the container runs.
        check_alive: bool,
    },
    /// `DELETE /ip/{id}…`.
    Free {
        /// Whose.
        holder: ContainerId,
        /// Which address; all if none is named.
        address: Option<Ipv4Addr>,
    },
    /// `GET /ip`.
    ListAddresses,
    /// `GET /ring`.
    Ring,
    /// `GET /ipinfo/defaultsubnet`.
    DefaultSubnet,
    /// `GET /ipinfo/tracker`.
    Tracker,
    /// `POST /expose/{ip}/{len}`.
    Expose {
        /// The host's address.
        address: Ipv4Net,
        /// Whether what passes gets the host's address.
        masquerade: bool,
    },
    /// `DELETE /peer`.
    HandOver,
    /// `DELETE /peer/{id}`.
    TakeOver {
        /// Whose addresses.
        peer: String,
    },
}

/// Whose a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameHolder {
    /// A container's.
    Container(ContainerId),
    /// The host's own, of an address that it is exposed by: `weave:expose`.
    Host,
    /// Nobody's: `weave:extern`.
    Nobody,
}

/// What a status is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// All services.
    All,
    /// Targets.
    Targets,
    /// Connections.
    Connections,
    /// Peers.
    Peers,
    /// Names.
    Dns,
    /// Shares of addresses.
    Ipam,
}

/// Why a request makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The answer's status.
    pub status: u16,
    /// One sentence.
    pub reason: String,
}

/// A request, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a str,
    /// Whether the client accepts JSON.
    pub accepts_json: bool,
    /// Its body, if that is a form.
    pub form: &'a str,
}

impl Call {
    /// Reads a request.
    ///
    /// # Errors
    /// If it is none of Weave Net's API, or names what cannot be.
    pub fn read(request: Request<'_>) -> Result<Self, Refusal> {
        let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
        let unknown = || Refusal {
            status: 404,
            reason: format!(
                "weft does not serve {}: docs/migrating.md, rows H-01 to H-18, has what it answers of Weave Net's HTTP API",
                quote(path)
            ),
        };
        let segments = path.strip_prefix('/').ok_or_else(unknown)?.split('/').take(6);
        let segments = segments.map(|segment| percent_decode(segment, false)).collect::<Option<Vec<_>>>();
        let segments = segments.ok_or_else(unknown)?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let method = if *request.method == Method::HEAD { &Method::GET } else { request.method };
        let form = if *method == Method::POST { request.form } else { "" };
        let fields = Fields::read(query, form)?;
        if let Some(call) = of(method, &segments, &fields, request.accepts_json) {
            return call;
        }
        let other = METHODS.iter().find(|other| of(other, &segments, &fields, false).is_some());
        Err(other.map_or_else(unknown, |other| Refusal {
            status: 405,
            reason: format!("{} has no {}: use {other}", quote(path), quote(method.as_str())),
        }))
    }

    /// Tells whether the call changes nothing, so that it may be asked for where only status is offered.
    #[must_use]
    pub const fn is_status(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Report(_) | Self::Metrics)
    }
}

type Reading = Option<Result<Call, Refusal>>;

/// Returns the call of a method and a path; nothing where there is none.
fn of(method: &Method, segments: &[&str], fields: &Fields, json: bool) -> Reading {
    if *method == Method::GET {
        get(segments, fields, json)
    } else if *method == Method::POST {
        post(segments, fields)
    } else if *method == Method::PUT {
        put(segments, fields)
    } else if *method == Method::DELETE {
        delete(segments, fields)
    } else {
        None
    }
}

fn get(segments: &[&str], fields: &Fields, json: bool) -> Reading {
    Some(match segments {
        ["status"] => Ok(Call::Status(About::All)),
        ["status", "targets"] => Ok(Call::Status(About::Targets)),
        ["status", "connections"] => Ok(Call::Status(About::Connections)),
        ["status", "peers"] => Ok(Call::Status(About::Peers)),
        ["status", "dns"] => Ok(Call::Status(About::Dns)),
        ["status", "ipam"] => Ok(Call::Status(About::Ipam)),
        ["report"] if json => Ok(Call::Report(None)),
        ["report"] => match fields.all("format").as_slice() {
            [template] => Ok(Call::Report(Some(template.clone()))),
            _ => Err(bad("error: must supply one format parameter, or the header Accept: application/json")),
        },
        ["metrics"] => Ok(Call::Metrics),
        ["domain"] => Ok(Call::Domain),
        ["dns-address"] => Ok(Call::DnsAddress { port: false }),
        ["dns-address-port"] => Ok(Call::DnsAddress { port: true }),
        ["proxyaddrs"] => Ok(Call::ProxyAddresses),
        ["name"] => Ok(Call::ListNames),
        ["ip"] => Ok(Call::ListAddresses),
        ["ip", id] => holder(id).map(|holder| Call::Lookup { holder, subnet: None }),
        ["ip", id, ip, length] => {
            holder(id).and_then(|holder| Ok(Call::Lookup { holder, subnet: Some(net(ip, length)?.trunc()) }))
        }
        ["ring"] => Ok(Call::Ring),
        ["ipinfo", "defaultsubnet"] => Ok(Call::DefaultSubnet),
        ["ipinfo", "tracker"] => Ok(Call::Tracker),
        ["debug", "pprof", ..] => Err(Refusal {
            status: 404,
            reason: "weft has no profiles of Go: GET /metrics says where time goes".to_owned(),
        }),
        _ => return None,
    })
}

fn post(segments: &[&str], fields: &Fields) -> Reading {
    Some(match segments {
        ["connect"] => connect(fields),
        ["forget"] => match fields.all("peer") {
            peers if peers.is_empty() => Err(bad("no peer is named: say which by the field peer, as in peer=host1")),
            peers => Ok(Call::Forget { peers }),
        },
        ["ip", ANONYMOUS, ..] if segments.len() != 3 => Err(bad(
            "an address without a holder cannot be chosen: name who is to have it, as in POST /ip/my-tool, or the address, as \
             in PUT /ip/_/10.32.0.9/12",
        )),
        ["ip", id] => allocate(id, None, fields),
        ["ip", id, ip, length] => net(ip, length).and_then(|net| allocate(id, Some(net), fields)),
        ["expose", ip, length] => net(ip, length).and_then(|address| {
            let skip = fields.flag("skipNAT")?;
            Ok(Call::Expose { address, masquerade: !skip })
        }),
        _ => return None,
    })
}

fn connect(fields: &Fields) -> Result<Call, Refusal> {
    let (peers, replace) = (fields.all("peer"), fields.flag("replace")?);
    if peers.is_empty() && !replace {
        return Err(bad("no peer is named: say which by the field peer, as in peer=host1"));
    }
    Ok(Call::Connect { peers, replace })
}

fn allocate(id: &str, subnet: Option<Ipv4Net>, fields: &Fields) -> Result<Call, Refusal> {
    let holder = holder(id)?;
    // The first address of a subnet stands for it, and so did any other for Weave Net.
    let subnet = subnet.map(|subnet| subnet.trunc());
    Ok(Call::Allocate { holder, subnet, check_alive: fields.flag("check-alive")? })
}

fn put(segments: &[&str], fields: &Fields) -> Reading {
    Some(match segments {
        ["name", container, ip] => add_name(container, ip, fields),
        ["ip", id, ip, length] => claim(id, ip, length, fields),
        _ => return None,
    })
}

fn add_name(container: &str, ip: &str, fields: &Fields) -> Result<Call, Refusal> {
    let holder = name_holder(container)?;
    let name = fields.one("fqdn")?.ok_or_else(|| bad("no name is given: say which by the field fqdn"))?;
    Ok(Call::AddName { holder, address: address(ip)?, name, check_alive: fields.flag("check-alive")? })
}

fn claim(id: &str, ip: &str, length: &str, fields: &Fields) -> Result<Call, Refusal> {
    let address = net(ip, length)?;
    // What it asks for, not to be told of what is not known yet, is always so: a claim has an answer within its time.
    fields.flag("noErrorOnUnknown")?;
    let check_alive = fields.flag("check-alive")?;
    let (holder, check_alive) = if id == ANONYMOUS { (holder(ip)?, false) } else { (holder(id)?, check_alive) };
    Ok(Call::Claim { holder, address, check_alive })
}

fn delete(segments: &[&str], fields: &Fields) -> Reading {
    Some(match segments {
        ["name"] => remove_names(None, None, fields),
        ["name", container] => remove_names(Some(container), None, fields),
        ["name", container, ip] => remove_names(Some(container), Some(ip), fields),
        ["ip", ANONYMOUS, ip] => {
            v4(ip).and_then(|address| Ok(Call::Free { holder: holder(ip)?, address: Some(address) }))
        }
        ["ip", id] => holder(id).map(|holder| Call::Free { holder, address: None }),
        ["ip", id, ip] => holder(id).and_then(|holder| Ok(Call::Free { holder, address: Some(v4(ip)?) })),
        ["peer"] => Ok(Call::HandOver),
        ["peer", peer] if !peer.is_empty() => Ok(Call::TakeOver { peer: (*peer).to_owned() }),
        _ => return None,
    })
}

fn remove_names(container: Option<&str>, ip: Option<&str>, fields: &Fields) -> Result<Call, Refusal> {
    let holder = container.map(name_holder).transpose()?;
    let (address, name) = (ip.map(address).transpose()?, fields.one("fqdn")?);
    if holder.is_none() && name.is_none() {
        return Err(bad(
            "nothing says which names: name a container, as in DELETE /name/my-container, or a name, as in DELETE \
             /name?fqdn=db.weave.local.",
        ));
    }
    Ok(Call::RemoveNames { holder, address, name })
}

fn holder(id: &str) -> Result<ContainerId, Refusal> {
    let id = if id == EXPOSE.0 { EXPOSE.1 } else { id };
    if id.starts_with(OWN) && id != EXPOSE.1 {
        return Err(bad(format!("{} is weft's own: name another holder", quote(id))));
    }
    id.parse().map_err(|error| bad(format!("{} cannot hold addresses or names: {error}", quote(id))))
}

/// Returns the name by which Weave Net's users know a holder.
#[must_use]
pub fn shown_holder(id: &str) -> &str {
    if id == EXPOSE.1 { EXPOSE.0 } else { id }
}

fn name_holder(container: &str) -> Result<NameHolder, Refusal> {
    match container {
        EXTERN => Ok(NameHolder::Nobody),
        text if text == EXPOSE.0 || text == EXPOSE.1 => Ok(NameHolder::Host),
        text => holder(text).map(NameHolder::Container),
    }
}

fn address(text: &str) -> Result<IpAddr, Refusal> {
    text.parse().map_err(|_| bad(format!("{} is no address: write it as 10.32.0.1", quote(text))))
}

fn v4(text: &str) -> Result<Ipv4Addr, Refusal> {
    text.parse().map_err(|_| bad(format!("{} is no IPv4 address: write it as 10.32.0.1", quote(text))))
}

fn net(ip: &str, length: &str) -> Result<Ipv4Net, Refusal> {
    let no_length = || bad(format!("{} is no prefix length: write one from 0 to 32", quote(length)));
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse().ok().filter(|_| digits).ok_or_else(no_length)?;
    Ipv4Net::new(v4(ip)?, length).map_err(|_| no_length())
}

/// Fields of a query and of a form.
#[derive(Debug)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn read(query: &str, form: &str) -> Result<Self, Refusal> {
        let pairs = || query.split('&').chain(form.split('&')).filter(|pair| !pair.is_empty());
        if pairs().nth(MOST_FIELDS).is_some() {
            return Err(bad(format!("a request has at most {MOST_FIELDS} fields")));
        }
        let decoded = |text: &str| {
            percent_decode(text, true).ok_or_else(|| bad(format!("{} is not encoded as it should be", quote(text))))
        };
        let field = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name)?, decoded(value)?))
        };
        pairs().map(field).collect::<Result<_, _>>().map(Self)
    }

    /// Returns all values of a field that are not empty.
    fn all(&self, name: &str) -> Vec<String> {
        let found = self.0.iter().filter(|(found, value)| found == name && !value.is_empty());
        found.map(|(_, value)| value.clone()).collect()
    }

    fn one(&self, name: &str) -> Result<Option<String>, Refusal> {
        let mut all = self.all(name);
        if all.len() > 1 {
            return Err(bad(format!("the field {name} is given {} times: give it once", all.len())));
        }
        Ok(all.pop())
    }

    /// Reads a field as Go's `strconv.ParseBool` does; where it is missing, it is false.
    fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.one(name)?.as_deref() {
            None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
            Some(other) => Err(bad(format!("the field {name} is {}: say true or false", quote(other)))),
        }
    }
}

fn bad(reason: impl fmt::Display) -> Refusal {
    Refusal { status: 400, reason: reason.to_string() }
}

fn quote(text: &str) -> String {
    format!("{:?}", text.chars().take(LONGEST_QUOTE).collect::<String>())
}
