//! The metrics of a real ipam process, beside which no router runs.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use weft_metrics::{merge, shared, testing::read};
use weft_proto::{
    client::{Service, channel},
    ipam::v1::{FreeRequest, LookupRequest, address_service_client::AddressServiceClient},
};

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn every_metric_is_there_and_two_scrapes_are_well_formed() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-ipam"));
    command.env_clear().stdin(Stdio::null());
    command.arg("--socket-folder").arg(folder.path()).arg("--state-folder").arg(folder.path().join("state"));
    let _process = Process(command.spawn().expect("ipam starts"));
    let socket = Service::Ipam.socket(folder.path());
    let started = tokio::time::timeout(Duration::from_secs(10), async {
        while weft_service::check(&socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    started.await.expect("ipam gets ready");

    let mut client = AddressServiceClient::new(channel(&socket));
    assert!(client.free(FreeRequest { container_id: "../c".into(), addresses: Vec::new() }).await.is_err());
    let mut waiting = tonic::Request::new(LookupRequest { container_id: "c".into() });
    waiting.set_timeout(Duration::from_millis(10));
    assert!(client.lookup(waiting).await.is_err(), "nothing is known before the router is");
    for _ in 0..2 {
        let families = weft_service::fetch_metrics(channel(&socket)).await.expect("answered");
        let scrape = read(&merge([families])).expect("well-formed");
        let missing = scrape.missing(&[shared::FAMILIES, weft_ipam::metrics::FAMILIES].concat());
        assert_eq!(missing, [shared::UP.name], "what only the router can say");
        assert_eq!(scrape.sum("weft_problem_age_seconds", &[("reason", "router_away")]) as u64, 0);
        assert!(scrape.families().any(|name| name == "weft_problem_age_seconds"));
        let waits = [("state", "waiting_for_peers")];
        assert!(scrape.sum("weft_ipam_ring_state", &waits) > scrape.sum("weft_ipam_ring_state", &[("state", "ready")]));
        let refused = [("service", "ipam"), ("method", "AddressService/Free"), ("code", "invalid_argument")];
        assert!((scrape.sum("weft_grpc_requests_total", &refused) - 1.0).abs() < 0.1);
    }
}
