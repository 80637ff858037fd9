//! A router that publishes ports and imports services, beside an ipam and a dns that do as they are told.
//!
//! Needs root, for network namespaces; no other network is touched.

#[path = "common/files.rs"]
mod files;
#[path = "mesh/lab.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod lab;
#[path = "publishing/services.rs"]
mod services;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use lab::{DEADLINE, Host, Lab, Namespace};
use services::{Dns, Ipam};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, transport::Channel};
use weft_proto::{
    client::{Service, channel},
    router::v1::{
        HostPort, ImportServiceRequest, ListImportedRequest, ListPublishedRequest, Protocol, PublishPortRequest,
        Published, UnpublishPortRequest, publish_service_client::PublishServiceClient,
    },
};

const OPTIONS: &[&str] = &["--password", "open sesame"];

/// A host with a router, beside the two other services.
struct Bed {
    lab: Lab,
    host: Host,
    ipam: Arc<Ipam>,
    dns: Arc<Dns>,
}

impl Bed {
    async fn start() -> Self {
        let mut lab = Lab::new();
        let mut host = lab.host();
        let (ipam, dns) = (Ipam::serve(&host.sockets()), Dns::serve(&host.sockets()));
        host.start(OPTIONS);
        host.until("it answers", |_| true).await;
        Self { lab, host, ipam, dns }
    }

    fn client(&self) -> PublishServiceClient<Channel> {
        PublishServiceClient::new(channel(&Service::Router.socket(&self.host.sockets())))
    }

    /// Has a port of TCP lead to port 80 of the target.
    async fn publish(&self, port: u32, target: &str) -> Result<Published, Status> {
        let request = PublishPortRequest {
            host_port: Some(tcp(port)),
            target: target.to_owned(),
            target_port: 80,
            proxy_protocol: false,
        };
        Ok(self.client().publish_port(request).await?.into_inner().published.expect("a port"))
    }

    /// Gives a service outside a name inside.
    async fn import(&self, name: &str) -> Result<(), Status> {
        let protocol = Protocol::Tcp.into();
        let request = ImportServiceRequest { name: name.into(), protocol, host: "192.0.2.9".into(), port: 5432 };
        self.client().import_service(request).await.map(drop)
    }

    async fn list(&self) -> Vec<Published> {
        self.client().list_published(ListPublishedRequest {}).await.expect("listed").into_inner().published
    }

    /// Returns the rules that lead to containers.
    fn rules(&self) -> String {
        self.host.namespace.run(|| {
            let output = Command::new("nft").args(["list", "ruleset", "inet"]).output().expect("nftables is installed");
            String::from_utf8(output.stdout).expect("text")
        })
    }

    /// Waits until exactly these get connections of the first port.
    async fn leads_to(&self, addresses: &[&str]) -> Published {
        let mut last = None;
        let waiting = async {
            loop {
                let first = self.list().await.into_iter().next().expect("a port");
                if backends(&first) == addresses {
                    return first;
                }
                last = Some(first);
                sleep(Duration::from_millis(20)).await;
            }
        };
        let found = timeout(DEADLINE, waiting).await;
        found.unwrap_or_else(|_| panic!("{addresses:?} do not get connections: {last:?}"))
    }

    /// Waits until the first port has a problem, and returns its sentence.
    async fn complains(&self, reason: &str) -> String {
        let mut last = None;
        let waiting = async {
            loop {
                let first = self.list().await.into_iter().next().expect("a port");
                if let Some(problem) = first.problems.iter().find(|problem| problem.reason == reason) {
                    return problem.message.clone();
                }
                last = Some(first);
                sleep(Duration::from_millis(20)).await;
            }
        };
        let found = timeout(DEADLINE, waiting).await;
        found.unwrap_or_else(|_| panic!("there is no {reason}: {last:?}"))
    }
}

fn tcp(port: u32) -> HostPort {
    HostPort { protocol: Protocol::Tcp.into(), address: None, port }
}

/// Waits until something is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !so().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

fn backends(published: &Published) -> Vec<String> {
    let addresses = published.backends.iter().map(|backend| backend.address.as_ref().expect("an address"));
    addresses.map(|address| IpAddr::try_from(address).expect("valid").to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_go_to_no_container_in_a_subnet_where_the_host_has_no_address() {
    let bed = Bed::start().await;
    let containers = ["a1", "b2"].map(|id| (Namespace::new(), id));
    for ((container, id), address) in containers.iter().zip(["10.32.0.1/12", "192.168.7.5/24"]) {
        bed.host.attach(container, id, address).await;
    }
    bed.dns.set("web", &["10.32.0.1", "192.168.7.5"]);
    bed.dns.set("far", &["192.168.7.5"]);

    assert_eq!(backends(&bed.publish(8080, "web").await.expect("published")), ["10.32.0.1"]);
    let sentence = bed.complains("backend_left_out").await;
    for part in ["192.168.7.5", "192.168.7.0/24", "lies outside the address range", "another subnet"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    let refused = bed.publish(8081, "far").await.expect_err("nobody is left");
    assert!(refused.message().contains("no address in 192.168.7.0/24"), "{refused:?}");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let rules = bed.rules();
    assert!(rules.contains("10.32.0.1") && !rules.contains("192.168.7.5"), "{rules}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_come_too_late_are_given_back() {
    let bed = Bed::start().await;
    let container = Namespace::new();
    bed.host.attach(&container, "a1", "10.32.0.1/12").await;
    bed.dns.set("web", &["10.32.0.1"]);
    // What is left of an earlier run is looked for once.
    bed.ipam.listed(1).await;
    bed.ipam.hang();
    let refused = bed.publish(8080, "web").await.expect_err("ipam does not answer");
    assert!(refused.message().contains("ipam did not answer"), "{refused:?}");
    let refused = bed.import("db").await.expect_err("ipam does not answer");
    assert!(refused.message().contains("ipam did not answer"), "{refused:?}");
    bed.ipam.go_on();
    assert_eq!(bed.ipam.held().len(), 2, "both were given all the same");
    until("both are given back", async || bed.ipam.held().is_empty()).await;
    assert!((1..5000).contains(&bed.ipam.longest_wait()), "ipam may look for {} ms", bed.ipam.longest_wait());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_dns_accepts_no_more_is_a_problem() {
    let bed = Bed::start().await;
    let container = Namespace::new();
    bed.host.attach(&container, "a1", "10.32.0.1/12").await;
    bed.dns.set("web.weft.internal.", &["10.32.0.1"]);
    bed.publish(8080, "web.weft.internal.").await.expect("published");
    bed.import("db").await.expect("imported");
    bed.dns.refuse("web.weft.internal.");
    bed.dns.refuse("db");
    let sentence = bed.complains("name_refused").await;
    for part in ["web.weft.internal.", "lies outside of the zone", "`weft unpublish 8080`"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    bed.leads_to(&[]).await;
    bed.host
        .until("the import is complained about", |status| {
            status.problems.iter().any(|problem| {
                problem.reason == "import_not_named" && problem.message.contains("lies outside of the zone")
            })
        })
        .await;
    bed.dns.set("web.weft.internal.", &["10.32.0.1"]);
    assert_eq!(bed.leads_to(&["10.32.0.1"]).await.problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_that_is_new_while_ipam_hangs_waits_for_it() {
    let bed = Bed::start().await;
    let containers = ["a1", "b2"].map(|id| (Namespace::new(), id));
    for ((container, id), address) in containers.iter().zip(["10.32.0.1/12", "10.40.0.1/24"]) {
        bed.host.attach(container, id, address).await;
    }
    bed.dns.set("web", &["10.32.0.1"]);
    bed.publish(8080, "web").await.expect("published");
    bed.ipam.hang();
    bed.dns.set("web", &["10.32.0.1", "10.40.0.1"]);
    assert!(bed.complains("backend_left_out").await.contains("10.40.0.1"));
    let rules = bed.rules();
    assert!(rules.contains("10.32.0.1") && !rules.contains("10.40.0.1"), "{rules}");
    bed.ipam.go_on();
    assert_eq!(bed.leads_to(&["10.32.0.1", "10.40.0.1"]).await.problems, []);
    until("the kernel is told", async || bed.rules().contains("10.40.0.1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_ipam_keeps_nobody_at_a_container_that_is_gone() {
    /// Within which clients of a container that has ended are led to another, as docs/operations.md has it.
    const SOON: Duration = Duration::from_secs(2);
    let mut bed = Bed::start().await;
    let addresses = ["10.32.0.1/12", "10.40.0.1/24", "10.41.0.1/24", "10.42.0.1/24"];
    let all = addresses.map(|net| net.split('/').next().expect("an address"));
    let containers = ["a1", "b2", "c3", "d4"].map(|id| (Namespace::new(), id));
    for ((container, id), address) in containers.iter().zip(addresses) {
        bed.host.attach(container, id, address).await;
    }
    bed.dns.set("web", &all);
    assert_eq!(backends(&bed.publish(8080, "web").await.expect("published")), all);
    bed.import("db").await.expect("imported");

    bed.ipam.hang();
    bed.host.kill();
    bed.host.start(OPTIONS);
    bed.host.until("it answers", |_| true).await;
    // ipam is asked whether all those addresses are the host's.
    until("ipam is asked", async || bed.ipam.late() > all.len()).await;
    bed.dns.set("web", &all[1..]);
    let began = Instant::now();
    until("the kernel is told", async || !bed.rules().contains("10.32.0.1")).await;
    bed.leads_to(&all[1..]).await;
    let request = ListImportedRequest {};
    let imported = bed.client().list_imported(request).await.expect("listed").into_inner().imported;
    assert_eq!(imported[0].addresses.len(), 1, "{imported:?}");
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    bed.client().unpublish_port(UnpublishPortRequest { host_port: Some(tcp(8080)) }).await.expect("taken back");
    assert_eq!(bed.list().await, []);
}

/// Has a container say by a question that it has an address.
fn announce(container: &Namespace, address: Ipv4Addr) {
    container.run(move || {
        let socket = UdpSocket::bind((address, 0)).expect("bound");
        let _ = socket.send_to(b"?", "10.32.0.77:9");
    });
}

/// Has a container give itself an address, and tell everybody who asks there its word.
fn take(container: &Namespace, address: Ipv4Addr, word: &'static [u8]) {
    container.ip(&format!("address add {address}/12 dev ethwe"));
    let listener = container.run(move || TcpListener::bind((address, 80)).expect("a free port"));
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(word);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_leads_to_a_floating_address_wherever_it_is() {
    const FLOATING: Ipv4Addr = Ipv4Addr::new(10, 40, 0, 100);
    let mut bed = Bed::start().await;
    let mut other = bed.lab.host();
    other.start(&[OPTIONS, &["--peers", &bed.host.address()]].concat());
    other.until("it answers", |_| true).await;
    let (near, far) = (Namespace::new(), Namespace::new());
    bed.host.attach_allowing(&near, "a1", "10.32.0.1/12", &[FLOATING.into()]).await;
    other.attach_allowing(&far, "b2", "10.32.0.2/12", &[FLOATING.into()]).await;
    assert_eq!(backends(&bed.publish(8080, "10.40.0.100").await.expect("published")), ["10.40.0.100"]);

    let asked = || {
        bed.host.namespace.run(|| {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
            let mut client = TcpStream::connect_timeout(&at, DEADLINE).expect("the port is held");
            client.set_read_timeout(Some(DEADLINE)).expect("set");
            let mut said = Vec::new();
            // Nobody there: the connection is closed, or reset.
            let _ = client.read_to_end(&mut said);
            said
        })
    };
    take(&far, FLOATING, b"far");
    until("the other host's is asked", async || tokio::task::block_in_place(asked) == b"far").await;
    far.ip(&format!("address del {FLOATING}/12 dev ethwe"));
    take(&near, FLOATING, b"near");
    until("this host's is asked", async || {
        tokio::task::block_in_place(|| {
            announce(&near, FLOATING);
            asked() == b"near"
        })
    })
    .await;
}
