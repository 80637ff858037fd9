//! Floating addresses, which the router knows.

use std::{net::IpAddr, path::Path};

use tokio::{net::UnixListener, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use weft::{Environment, Outcome};
use weft_proto::router::v1::{
    AttachRequest, AttachResponse, Attachment, DetachRequest, DetachResponse, ListAttachmentsRequest,
    ListAttachmentsResponse, ListLocationsRequest, ListLocationsResponse,
    attachment_service_server::{AttachmentService, AttachmentServiceServer},
};

use super::{serve, weft_in};

struct Router;

#[tonic::async_trait]
impl AttachmentService for Router {
    async fn attach(&self, _: Request<AttachRequest>) -> Result<Response<AttachResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn detach(&self, _: Request<DetachRequest>) -> Result<Response<DetachResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_attachments(
        &self,
        _: Request<ListAttachmentsRequest>,
    ) -> Result<Response<ListAttachmentsResponse>, Status> {
        let allowed = ["10.40.0.100", "10.40.0.104", "10.40.0.105"];
        let allowed = allowed.map(|text| text.parse::<IpAddr>().expect("valid").into()).into();
        let db = Attachment { container_id: "aaaaaaaaaaaaaaaa".to_owned(), allowed, ..Attachment::default() };
        Ok(Response::new(ListAttachmentsResponse { attachments: vec![db] }))
    }

    async fn list_locations(
        &self,
        _: Request<ListLocationsRequest>,
    ) -> Result<Response<ListLocationsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn serve_router(folder: &Path) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let listener = UnixListener::bind(folder.join("router.sock")).expect("the socket can be bound");
    let server = Server::builder().add_service(AttachmentServiceServer::new(Router));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)))
}

#[tokio::test]
async fn containers_show_what_they_may_give_themselves_but_not_to_weave_nets_scripts() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve(folder.path());
    let _router = serve_router(folder.path());
    let run = async |line| weft_in(folder.path(), Environment::default(), line).await;
    let (outcome, out, _) = run("ps db web").await;
    let shown = "aaaaaaaaaaaa 02:00:00:00:00:01 10.32.0.1/12 floating=10.40.0.100,10.40.0.104/31\n\
                 bbbbbbbbbbbb 02:00:00:00:00:01\n";
    assert_eq!((outcome, out.as_str()), (Outcome::Done, shown));
    let (_, out, _) = run("--output json ps db").await;
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["containers"][0]["floating_addresses"], serde_json::json!(["10.40.0.100", "10.40.0.104/31"]));
    let (_, out, _) = run("report").await;
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["ps"]["containers"][0], json["containers"][0]);

    let words = ["weave", "--socket-folder", folder.path().to_str().expect("text"), "ps", "db"];
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let words = words.map(Into::into).into();
    weft::run_words(words, &Environment::default(), &mut out, &mut complaints).await;
    assert_eq!(String::from_utf8_lossy(&out), "aaaaaaaaaaaa 02:00:00:00:00:01 10.32.0.1/12\n");
}
