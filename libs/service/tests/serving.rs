//! A service on its socket, as its clients see it.

use tonic::service::Routes;
use weft_service::{Health, Shutdown, bind, check};

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
