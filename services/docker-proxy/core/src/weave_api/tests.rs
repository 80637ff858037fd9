use proptest::prelude::*;

use super::*;

fn read(line: &str) -> Result<Call, Refusal> {
    let (line, form) = line.split_once(" < ").unwrap_or((line, ""));
    let (line, json) = line.strip_suffix(" as JSON").map_or((line, false), |line| (line, true));
    let (method, target) = line.split_once(' ').expect("a method and a path");
    let method = method.parse().expect("a method");
    Call::read(Request { method: &method, target, accepts_json: json, form })
}

fn id(text: &str) -> ContainerId {
    text.parse().expect("an id")
}

fn cidr(text: &str) -> Ipv4Net {
    text.parse().expect("valid")
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn each_call_of_weave_net_is_known() {
    let name = |holder, address: &str, name: &str| Call::RemoveNames {
        holder,
        address: (!address.is_empty()).then(|| address.parse().expect("valid")),
        name: (!name.is_empty()).then(|| name.to_owned()),
    };
    let container = || Some(NameHolder::Container(id("c")));
    let add = |holder: Option<NameHolder>, check_alive| Call::AddName {
        holder: holder.unwrap_or(NameHolder::Nobody),
        address: IpAddr::from([10, 32, 0, 1]),
        name: "db.weave.local.".to_owned(),
        check_alive,
    };
    let claim =
        |holder: &str, check_alive| Call::Claim { holder: id(holder), address: cidr("10.32.0.9/12"), check_alive };
    let allocate =
        |subnet: Option<&str>, check_alive| Call::Allocate { holder: id("c"), subnet: subnet.map(cidr), check_alive };
    for (line, call) in [
        ("GET /status", Call::Status(About::All)),
        ("HEAD /status", Call::Status(About::All)),
        ("GET /status/targets", Call::Status(About::Targets)),
        ("GET /status/connections?x=y", Call::Status(About::Connections)),
        ("GET /status/peers", Call::Status(About::Peers)),
        ("GET /status/dns", Call::Status(About::Dns)),
        ("GET /status/ipam", Call::Status(About::Ipam)),
        ("GET /report as JSON", Call::Report(None)),
        ("GET /report?format=%7B%7B.Ready%7D%7D+x", Call::Report(Some("{{.Ready}} x".to_owned()))),
        ("GET /metrics", Call::Metrics),
        (
            "POST /connect < peer=host1&peer=host2%3A7",
            Call::Connect { peers: texts(&["host1", "host2:7"]), replace: false },
        ),
        ("POST /connect?peer=host1 < replace=true", Call::Connect { peers: texts(&["host1"]), replace: true }),
        ("POST /connect < replace=1", Call::Connect { peers: Vec::new(), replace: true }),
        ("POST /forget < peer=host1", Call::Forget { peers: texts(&["host1"]) }),
        ("GET /domain", Call::Domain),
        ("GET /dns-address", Call::DnsAddress { port: false }),
        ("GET /dns-address-port", Call::DnsAddress { port: true }),
        ("GET /proxyaddrs", Call::ProxyAddresses),
        ("PUT /name/c/10.32.0.1?fqdn=db.weave.local.", add(container(), false)),
        ("PUT /name/c/10.32.0.1?fqdn=db.weave.local.&check-alive=true", add(container(), true)),
        ("PUT /name/weave:expose/10.32.0.1?fqdn=db.weave.local.", add(Some(NameHolder::Host), false)),
        ("PUT /name/weave:extern/10.32.0.1?fqdn=db.weave.local.", add(None, false)),
        ("PUT /name/weave%3Aextern/10.32.0.1?fqdn=db.weave.local.&check-alive=", add(None, false)),
        ("DELETE /name?fqdn=db", name(None, "", "db")),
        ("DELETE /name/c", name(container(), "", "")),
        ("DELETE /name/c/10.32.0.1?fqdn=db", name(container(), "10.32.0.1", "db")),
        ("DELETE /name/weave:extern", name(Some(NameHolder::Nobody), "", "")),
        ("DELETE /name/weave:expose/10.32.0.1", name(Some(NameHolder::Host), "10.32.0.1", "")),
        ("GET /name as JSON", Call::ListNames),
        ("POST /ip/c", allocate(None, false)),
        ("POST /ip/c?check-alive=true", allocate(None, true)),
        ("POST /ip/c/10.32.1.0/24", allocate(Some("10.32.1.0/24"), false)),
        ("POST /ip/c/10.32.1.9/24", allocate(Some("10.32.1.0/24"), false)),
        ("GET /ip/c", Call::Lookup { holder: id("c"), subnet: None }),
        ("GET /ip/weave:expose", Call::Lookup { holder: id("weft:expose"), subnet: None }),
        ("GET /ip/c/10.32.1.0/24", Call::Lookup { holder: id("c"), subnet: Some(cidr("10.32.1.0/24")) }),
        ("PUT /ip/c/10.32.0.9/12?check-alive=true", claim("c", true)),
        ("PUT /ip/c/10.32.0.9/12?noErrorOnUnknown=true", claim("c", false)),
        ("PUT /ip/_/10.32.0.9/12?check-alive=true", claim("10.32.0.9", false)),
        ("DELETE /ip/_/10.32.0.9", Call::Free { holder: id("10.32.0.9"), address: Some([10, 32, 0, 9].into()) }),
        ("DELETE /ip/c/10.32.0.9", Call::Free { holder: id("c"), address: Some([10, 32, 0, 9].into()) }),
        ("DELETE /ip/c", Call::Free { holder: id("c"), address: None }),
        ("GET /ip", Call::ListAddresses),
        ("GET /ring", Call::Ring),
        ("GET /ipinfo/defaultsubnet", Call::DefaultSubnet),
        ("GET /ipinfo/tracker", Call::Tracker),
        ("POST /expose/10.32.0.9/12", Call::Expose { address: cidr("10.32.0.9/12"), masquerade: true }),
        ("POST /expose/10.32.0.9/12?skipNAT=true", Call::Expose { address: cidr("10.32.0.9/12"), masquerade: false }),
        ("DELETE /peer", Call::HandOver),
        ("DELETE /peer/host2", Call::TakeOver { peer: "host2".to_owned() }),
    ] {
        assert_eq!(read(line), Ok(call), "{line}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_one_sentence() {
    for (line, status, part) in [
        ("GET /", 404, "\"/\""),
        ("GET /nothing", 404, "rows H-01 to H-18"),
        ("GET /%ff", 404, "\"/%ff\""),
        ("GET /debug/pprof/heap", 404, "GET /metrics"),
        ("GET /ip/c/10.32.1.0/24/9", 404, "does not serve"),
        ("DELETE /peer/", 404, "does not serve"),
        ("POST /status", 405, "use GET"),
        ("GET /connect", 405, "use POST"),
        ("POST /peer", 405, "use DELETE"),
        ("PATCH /name", 405, "has no \"PATCH\""),
        ("GET /report", 400, "must supply one format parameter"),
        ("GET /report?format=a&format=b", 400, "must supply one format parameter"),
        ("POST /connect", 400, "peer=host1"),
        ("POST /connect < peer=a&replace=maybe", 400, "\"maybe\": say true or false"),
        ("POST /forget < peer=", 400, "peer=host1"),
        ("POST /forget < peer=%4", 400, "\"%4\" is not encoded"),
        ("PUT /name/c/10.32.0.1", 400, "fqdn"),
        ("PUT /name/c/here?fqdn=a", 400, "\"here\" is no address"),
        ("PUT /name/c%2Fd/10.32.0.1?fqdn=a", 400, "\"c/d\" cannot hold"),
        ("PUT /name/c/10.32.0.1?fqdn=a&fqdn=b", 400, "2 times"),
        ("PUT /name/c/10.32.0.1?fqdn=a&check-alive=si", 400, "check-alive"),
        ("DELETE /name", 400, "nothing says which names"),
        ("DELETE /name/c/x", 400, "\"x\" is no address"),
        ("POST /ip/_", 400, "PUT /ip/_/10.32.0.9/12"),
        ("POST /ip/_/10.32.0.0/12", 400, "without a holder"),
        ("POST /ip/c/10.32.0.0/33", 400, "\"33\" is no prefix length"),
        ("POST /ip/c/10.32.0.0/+9", 400, "\"+9\" is no prefix length"),
        ("POST /ip/c/fd00::1/12", 400, "\"fd00::1\" is no IPv4 address"),
        ("PUT /ip/c/10.32.0.9/12?noErrorOnUnknown=x", 400, "noErrorOnUnknown"),
        ("DELETE /ip/c/x", 400, "\"x\" is no IPv4 address"),
        ("DELETE /ip/weft:publish", 400, "weft's own"),
        ("POST /expose/10.32.0.9/12?skipNAT=x", 400, "skipNAT"),
    ] {
        let refusal = read(line).expect_err(line);
        assert!(refusal.status == status && refusal.reason.contains(part), "{line}: {refusal:?}");
        assert!(refusal.reason.len() < 300 && !refusal.reason.contains('\n'), "{line}: {refusal:?}");
    }
    let many = vec!["peer=a"; MOST_FIELDS + 1].join("&");
    assert!(read(&format!("POST /connect < {many}")).expect_err("too many").reason.contains("1024"));
}

proptest! {
    #[test]
    fn any_request_is_answered(method in "GET|POST|PUT|DELETE|HEAD|X", target in "(/|(/[^/?]{0,9}){1,5}(\\?.{0,40})?)", form in ".{0,40}") {
        let method: Method = method.parse().expect("a method");
        let request = Request { method: &method, target: &target, accepts_json: false, form: &form };
        if let Err(refusal) = Call::read(request) {
            prop_assert!((400..406).contains(&refusal.status) && refusal.reason.len() < 2000);
        }
    }
}
