//! A service on its socket, as its clients see it.

use std::sync::Arc;

use tonic::service::Routes;
use weft_metrics::{merge, testing::read};
use weft_service::{Health, Shutdown, bind, check, fetch_metrics};

#[tokio::test]
async fn health_follows_readiness_and_stale_sockets_are_replaced() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let socket = folder.path().join("sub/router.sock");
    assert!(check(&socket).await.is_err(), "nobody serves yet");

    drop(bind(&socket).expect("the first bind works"));
    let server = bind(&socket).expect("a stale socket is replaced");
    let error = bind(&socket).expect_err("a live socket is left alone").to_string();
    assert!(error.contains("another process serves"), "{error}");

    let health = Health::starting().await;
    let (trigger, shutdown) = Shutdown::triggered();
    let serving = tokio::spawn({
        let health = health.clone();
        async move { server.serve(Routes::default(), &health, shutdown).await }
    });
    let error = check(&socket).await.expect_err("not ready").to_string();
    assert!(error.contains("is not ready yet"), "{error}");
    health.ready().await;
    check(&socket).await.expect("ready");

    trigger.request();
    serving.await.expect("the server does not panic").expect("the server stops well");
}

struct Nothing;

#[tonic::async_trait]
impl weft_metrics::Collect for Nothing {
    async fn collect(&self, _: &mut weft_metrics::Sheet) {}
}

#[tokio::test]
async fn metrics_are_had_from_the_socket_of_a_service_that_has_some() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let registry = weft_metrics::Registry::new("test", "1", &[]);
    let exposition = Arc::new(weft_metrics::Exposition::new(registry, Nothing));
    let (_trigger, shutdown) = Shutdown::triggered();
    let health = Health::starting().await;
    let with = bind(&folder.path().join("with.sock")).expect("bound").with_metrics(exposition);
    let without = bind(&folder.path().join("without.sock")).expect("bound");
    for server in [with, without] {
        let (health, shutdown) = (health.clone(), shutdown.clone());
        tokio::spawn(async move { server.serve(Routes::default(), &health, shutdown).await });
    }
    let fetch = |name: &str| fetch_metrics(weft_proto::client::channel(&folder.path().join(name)));
    let scrape = read(&merge([fetch("with.sock").await.expect("answered")])).expect("well-formed");
    assert!(fetch("with.sock").await.is_ok());
    let scrape_after = read(&merge([fetch("with.sock").await.expect("answered")])).expect("well-formed");
    let calls = [("service", "test"), ("method", "MetricsService/Render"), ("code", "ok")];
    assert!(scrape_after.sum("weft_grpc_requests_total", &calls) >= 2.0);
    assert!(scrape_after.sum("weft_grpc_request_duration_seconds_count", &calls[..2]) >= 2.0);
    assert!(scrape.sum("process_threads", &[("service", "test")]) > 0.0);
    assert_eq!(fetch("without.sock").await.expect_err("it has none").code(), tonic::Code::Unimplemented);
    assert_eq!(fetch("nobody.sock").await.expect_err("it is away").code(), tonic::Code::Unavailable);
}
