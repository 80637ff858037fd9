//! What Weave Net's `report` says, for scripts that read its fields.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_proto::{dns::v1 as dns, ipam::v1 as ipam, proxy::v1 as proxy, router::v1 as router};

use super::{Identity, address, endpoint, prefix};

/// One for each service.
const SECTIONS: [&str; 4] = ["Router", "IPAM", "DNS", "Proxy"];

/// Holder of names that are no container's, as weft and as Weave Net call it.
const NOBODY: (&str, &str) = ("weft:extern", "weave:extern");

/// The fields of Weave Net's report that mean something in weft, under their names there. Those of a service that is away are
/// absent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WeaveReport(Value);

/// What the services say; absent where one is away.
#[derive(Debug, Default)]
pub struct Answers {
    /// The router's.
    pub router: Option<router::GetStatusResponse>,
    /// That of ipam.
    pub ipam: Option<ipam::GetStatusResponse>,
    /// That of dns.
    pub dns: Option<dns::GetStatusResponse>,
    /// All names.
    pub records: Vec<dns::Record>,
    /// That of docker-proxy.
    pub proxy: Option<proxy::GetStatusResponse>,
}

impl WeaveReport {
    /// Takes what the services say.
    #[must_use]
    pub fn new(answers: &Answers) -> Self {
        let Answers { router, ipam, dns, records, proxy } = answers;
        let mut report = json!({
            "Ready": router.is_some() && ipam.is_some() && dns.is_some() && proxy.is_some(),
            "Version": env!("CARGO_PKG_VERSION"),
            "VersionCheck": { "Enabled": false, "Success": false, "NewVersion": "" },
        });
        let sections = [
            router.as_ref().map(of_router),
            ipam.as_ref().map(of_ipam),
            dns.as_ref().map(|dns| of_dns(dns, records)),
            proxy.as_ref().map(of_proxy),
        ];
        for (name, section) in SECTIONS.into_iter().zip(sections) {
            if let Some(section) = section {
                report[name] = section;
            }
        }
        Self(report)
    }

    /// Returns whether all services answered.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0["Ready"] == true
    }

    /// Writes it by a template as Go has them.
    ///
    /// # Errors
    /// If the template makes no sense, or names what is not there.
    pub fn format(&self, template: &str) -> anyhow::Result<String> {
        let refused = |error: String| {
            // What was looked into follows, all of it.
            let reason = error.split_once(" for {").map_or(error.as_str(), |(reason, _)| reason);
            anyhow::anyhow!("the template {template:?} makes no sense: {reason}")
        };
        let mut go = gtmpl::Template::default();
        go.add_func("json", json_of);
        go.parse(template).map_err(|error| refused(error.to_string()))?;
        let mut context = self.0.clone();
        for section in SECTIONS.iter().filter(|section| self.0.get(section).is_none()) {
            context[section] = Value::Null;
        }
        let context = gtmpl::Context::from(go_value(&context));
        go.render(&context).map_err(|error| refused(error.to_string()))
    }
}

fn of_router(status: &router::GetStatusResponse) -> Value {
    let peers: Vec<_> = status.peers.iter().map(|peer| of_peer(peer, &status.peers)).collect();
    let targets: Vec<_> = status.targets.iter().map(|target| &target.text).collect();
    let connections: Vec<_> = status.connections.iter().map(|connection| of_connection(connection, status)).collect();
    json!({
        "Protocol": "weft",
        "Encryption": status.encrypted,
        "PeerDiscovery": status.discovery,
        "Name": status.name,
        "NickName": status.nickname,
        "Port": status.port,
        "Peers": peers,
        "Connections": connections,
        "Targets": targets,
        "TrustedSubnets": status.trusted_subnets.iter().map(prefix).collect::<Vec<_>>(),
        "Interface": status.data_plane.as_ref().map(|data_plane| &data_plane.bridge),
    })
}

fn of_peer(peer: &router::Peer, all: &[router::Peer]) -> Value {
    let link = |link: &router::PeerLink| {
        let remote = all.iter().find(|other| other.peer_name == link.remote);
        let (name, nickname) =
            remote.map_or_else(Default::default, |remote| (remote.name.clone(), remote.nickname.clone()));
        let remote = Identity::new(link.remote.as_ref(), &name, &nickname);
        json!({
            "Name": remote.name,
            "NickName": remote.nickname,
            "Address": link.endpoint.as_ref().map(endpoint),
            "Outbound": link.outbound,
            "Established": link.data_direct || link.data_stream,
        })
    };
    let identity = Identity::new(peer.peer_name.as_ref(), &peer.name, &peer.nickname);
    json!({
        "Name": identity.name,
        "NickName": identity.nickname,
        "Version": peer.version,
        "Connections": peer.links.iter().map(link).collect::<Vec<_>>(),
    })
}

fn of_connection(connection: &router::Connection, status: &router::GetStatusResponse) -> Value {
    let established = connection.state() == router::ConnectionState::Established;
    let unsealed = connection.path() == router::PathKind::Kernel;
    let peer = Identity::new(connection.peer_name.as_ref(), &connection.name, &connection.nickname);
    let seal = if unsealed { "unencrypted" } else { "encrypted" };
    let way = if unsealed { "fastdp" } else { "sleeve" };
    json!({
        "Address": connection.endpoint.as_ref().map(endpoint),
        "Outbound": connection.outbound,
        "State": if established { "established" } else { "pending" },
        "Info": format!("{seal:<11} {way:<6} {peer}"),
        "Attrs": {
            "name": way,
            "mtu": status.data_plane.as_ref().map(|data_plane| data_plane.mtu_bytes),
            "encrypted": !unsealed,
        },
    })
}

fn of_ipam(status: &ipam::GetStatusResponse) -> Value {
    let range = status.range.as_ref().and_then(|range| ipnet::IpNet::try_from(range).ok());
    let numbers = range.map(|range| 1_u64 << (range.max_prefix_len() - range.prefix_len()).min(32));
    let entry = |share: &ipam::PeerShare| {
        let owner = Identity::new(share.peer_name.as_ref(), &share.name, &share.nickname);
        json!({
            "Size": share.owned,
            "Peer": owner.name,
            "Nickname": owner.nickname,
            "IsKnownPeer": share.reachable,
        })
    };
    let electing = status.state() == ipam::RingState::Electing;
    let votes = json!({ "Quorum": status.voters / 2 + 1, "KnownNodes": status.voters_heard });
    json!({
        "Paxos": if electing { votes } else { Value::Null },
        "Range": status.range.as_ref().map(prefix),
        "RangeNumIPs": numbers,
        "ActiveIPs": status.allocated,
        "DefaultSubnet": status.default_subnet.as_ref().map(prefix),
        "Entries": status.shares.iter().map(entry).collect::<Vec<_>>(),
        "PendingAllocates": status.pending.iter().map(|pending| &pending.container_id).collect::<Vec<_>>(),
    })
}

fn of_dns(status: &dns::GetStatusResponse, records: &[dns::Record]) -> Value {
    let upstreams = status.upstreams.iter().filter_map(|upstream| upstream.endpoint.as_ref());
    json!({
        "Domain": status.zone,
        "Upstream": upstreams.map(endpoint).collect::<Vec<_>>(),
        "Address": status.address.as_ref().map(endpoint),
        "TTL": status.ttl_seconds,
        "Entries": weave_names(records),
    })
}

/// Returns all names that are answered, as Weave Net lists them.
#[must_use]
pub fn weave_names(records: &[dns::Record]) -> Value {
    let entries = records.iter().filter(|record| !record.suspended).flat_map(|record| {
        record.addresses.iter().map(move |found| {
            json!({
                "Hostname": record.name,
                "Origin": record.origin_name,
                "ContainerID": if record.container_id == NOBODY.0 { NOBODY.1 } else { &record.container_id },
                "Address": address(found),
            })
        })
    });
    entries.collect()
}

fn of_proxy(status: &proxy::GetStatusResponse) -> Value {
    json!({ "Addresses": status.listeners.iter().map(|listener| &listener.address).collect::<Vec<_>>() })
}

fn go_value(value: &Value) -> gtmpl_value::Value {
    match value {
        Value::Null => gtmpl_value::Value::Nil,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(number), _) => number.into(),
            (None, number) => number.unwrap_or_default().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(values) => gtmpl_value::Value::Array(values.iter().map(go_value).collect()),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), go_value(value)));
            gtmpl_value::Value::Object(fields.collect())
        }
    }
}

fn json_value(value: &gtmpl_value::Value) -> Value {
    use gtmpl_value::Value as Go;
    match value {
        Go::Bool(value) => json!(value),
        Go::String(text) => json!(text),
        Go::Number(number) => number.as_u64().map_or_else(|| json!(number.as_f64()), |number| json!(number)),
        Go::Array(values) => values.iter().map(json_value).collect(),
        Go::Object(fields) | Go::Map(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            Value::Object(fields.into_iter().map(|(name, value)| (name.clone(), json_value(value))).collect())
        }
        Go::NoValue | Go::Nil | Go::Function(_) => Value::Null,
    }
}

/// What `json` does in a template.
fn json_of(arguments: &[gtmpl_value::Value]) -> Result<gtmpl_value::Value, gtmpl_value::FuncError> {
    let [value] = arguments else { return Err(gtmpl_value::FuncError::ExactlyXArgs("json".to_owned(), 1)) };
    Ok(json_value(value).to_string().into())
}

impl fmt::Display for WeaveReport {
    /// Writes JSON with four blanks a level.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        let layout = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        self.0.serialize(&mut serde_json::Serializer::with_formatter(&mut text, layout)).map_err(|_| fmt::Error)?;
        writeln!(f, "{}", String::from_utf8_lossy(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> WeaveReport {
        let prefix = |text: &str| text.parse::<ipnet::IpNet>().expect("valid").into();
        let ipam = ipam::GetStatusResponse {
            range: Some(prefix("10.32.0.0/12")),
            allocated: 3,
            shares: vec![ipam::PeerShare { name: "a".to_owned(), owned: 9, ..ipam::PeerShare::default() }],
            ..ipam::GetStatusResponse::default()
        };
        let dns = dns::GetStatusResponse { zone: "weave.local.".to_owned(), ttl_seconds: 1, ..Default::default() };
        let record = |name: &str, suspended| dns::Record {
            name: name.to_owned(),
            addresses: vec![std::net::IpAddr::from([10, 32, 0, 1]).into()],
            suspended,
            ..dns::Record::default()
        };
        let records = vec![record("db.weave.local.", false), record("gone.weave.local.", true)];
        WeaveReport::new(&Answers { ipam: Some(ipam), dns: Some(dns), records, ..Answers::default() })
    }

    #[test]
    fn fields_have_the_names_that_scripts_read() {
        let text = report().to_string();
        assert!(text.starts_with("{\n    \"Ready\": false,\n"), "{text}");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["IPAM"]["Range"], "10.32.0.0/12");
        assert_eq!(value["IPAM"]["RangeNumIPs"], 1 << 20);
        assert_eq!(value["DNS"]["Entries"].as_array().map(Vec::len), Some(1));
        assert_eq!(value.get("Router"), None, "a service that is away has no section");
    }

    #[test]
    fn templates_of_scripts_work() {
        let report = report();
        for (template, expected) in [
            ("{{.IPAM.Range}}", "10.32.0.0/12"),
            ("{{json .DNS.TTL}} {{json .Proxy}}", "1 null"),
            ("{{range .DNS.Entries}}{{.Hostname}}={{.Address}};{{end}}", "db.weave.local.=10.32.0.1;"),
            ("{{range .IPAM.Entries}}{{json .}}{{end}}", r#"{"IsKnownPeer":false,"Nickname":"","Peer":"a","Size":9}"#),
            ("{{if .Ready}}yes{{else}}no{{end}}", "no"),
        ] {
            assert_eq!(report.format(template).expect(template), expected);
        }
        for template in ["{{.IPAM.Rang", "{{.Frob}}", "{{range}}", "{{frob .}}", "{{json}}"] {
            let error = report.format(template).expect_err(template).to_string();
            assert!(error.contains("makes no sense") && error.len() < 150, "{error}");
        }
    }
}
