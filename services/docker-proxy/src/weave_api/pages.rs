//! The status for the router, at whose address old scripts ask for it.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tonic::{Request, Response, Status};
use weft_docker_proxy_core::weave_api::Call;
use weft_proto::common::v1::{GetPageRequest, GetPageResponse, PageHeader, page_service_server::PageService};

use super::{Question, WeaveApi};

/// Serves the contract `weft.common.v1.PageService`.
#[derive(Debug)]
pub(crate) struct Pages(pub(crate) Arc<WeaveApi>);

#[tonic::async_trait]
impl PageService for Pages {
    async fn get_page(&self, request: Request<GetPageRequest>) -> Result<Response<GetPageResponse>, Status> {
        let GetPageRequest { target, headers } = request.into_inner();
        let header =
            |PageHeader { name, value }| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?));
        let mut fields = HeaderMap::new();
        for (name, value) in headers.into_iter().filter_map(header) {
            fields.append(name, value);
        }
        let question = Question { method: &Method::GET, target: &target, headers: &fields, form: "" };
        let reply = self.0.answer_if(question, Call::is_status).await;
        let (status, content_type) = (reply.status.as_u16().into(), reply.kind.to_owned());
        Ok(Response::new(GetPageResponse { status, content_type, body: reply.text }))
    }
}
