//! The gRPC service `weft.dns.v1.NameService`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hickory_proto::{
    op::Query,
    rr::{Name, RecordType},
};
use tonic::{Request, Response, Status};
use weft_dns_core::{Names, RegisterError, Zone};
use weft_proto::convert::InvalidMessage;
use weft_proto::dns::v1::{
    AddNamesRequest, AddNamesResponse, DeregisterRequest, DeregisterResponse, GetStatusRequest, GetStatusResponse,
    ListRecordsRequest, ListRecordsResponse, LookupRequest, LookupResponse, RegisterRequest, RegisterResponse,
    RemoveNamesRequest, RemoveNamesResponse, Upstream as Server, WatchRequest, name_service_server::NameService,
};

use crate::{
    convert,
    handler::Handler,
    state::State,
    store::{NameStore, Unchanged},
    upstream::Upstream,
    watch::{self, Watched},
};

/// Serves the contract.
pub(crate) struct Api {
    state: Arc<State>,
    store: Arc<NameStore>,
    handler: Handler,
    upstream: Arc<Upstream>,
    zone: Zone,
}

impl Api {
    pub(crate) fn new(state: Arc<State>, store: Arc<NameStore>, handler: Handler, upstream: Arc<Upstream>) -> Self {
        let zone = state.read(|names| names.zone().clone());
        Self { state, store, handler, upstream, zone }
    }
}

fn refused(error: RegisterError) -> Status {
    match error {
        RegisterError::Name(_) | RegisterError::NotAContainer(_) => Status::invalid_argument(error.to_string()),
        RegisterError::NotKnownYet => Status::unavailable(error.to_string()),
        RegisterError::TooManyRecords => Status::resource_exhausted(error.to_string()),
    }
}

impl From<Unchanged> for Status {
    fn from(why: Unchanged) -> Self {
        match why {
            Unchanged::Refused(error) => refused(error),
            Unchanged::NotKept(error) => {
                Self::internal(format!("no name was changed, because that could not be kept: {error:#}"))
            }
        }
    }
}

#[tonic::async_trait]
impl NameService for Api {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let registration = request.into_inner().registration.ok_or(InvalidMessage::missing("registration"))?;
        let (container, record) = convert::registration(&self.zone, &registration)?;
        tracing::debug!(container = container.short(), names = ?registration.names, "registering");
        self.state.write(|names| names.register(container, record)).map_err(refused)?;
        self.state.changed.notify_one();
        Ok(Response::new(RegisterResponse {}))
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<DeregisterResponse>, Status> {
        let request = request.into_inner();
        let container = convert::container(&request.container_id)?;
        let given = request.names.iter().map(|name| self.zone.name(name)).collect::<Result<Vec<_>, _>>();
        let given = given.map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::debug!(container = container.short(), names = ?request.names, "deregistering");
        self.state.write(|names| names.deregister(&container, &given));
        self.state.changed.notify_one();
        Ok(Response::new(DeregisterResponse {}))
    }

    async fn add_names(&self, request: Request<AddNamesRequest>) -> Result<Response<AddNamesResponse>, Status> {
        let AddNamesRequest { container_id, names, addresses } = request.into_inner();
        let holder = convert::holder(&container_id)?;
        let addresses = addresses.iter().map(IpAddr::try_from).collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() || addresses.is_empty() {
            return Err(Status::invalid_argument("at least one name and one address are needed"));
        }
        let given = self.zone.record(&names, &addresses, true).map_err(|error| refused(error.into()))?;
        tracing::debug!(container = holder.short(), ?names, "adding names by hand");
        let change = move |names: &mut Names| names.add_by_hand(&holder, &given);
        Arc::clone(&self.store).change(Arc::clone(&self.state), change).await?;
        Ok(Response::new(AddNamesResponse {}))
    }

    async fn remove_names(
        &self,
        request: Request<RemoveNamesRequest>,
    ) -> Result<Response<RemoveNamesResponse>, Status> {
        let RemoveNamesRequest { container_id, names, addresses } = request.into_inner();
        let holder = convert::holder(&container_id)?;
        let addresses = addresses.iter().map(IpAddr::try_from).collect::<Result<Vec<_>, _>>()?;
        let given = names.iter().map(|name| self.zone.name(name)).collect::<Result<Vec<_>, _>>();
        let given = given.map_err(|error| refused(error.into()))?;
        tracing::debug!(container = holder.short(), ?names, "removing names by hand");
        let change = move |names: &mut Names| names.remove_by_hand(&holder, &given, &addresses);
        let removed = Arc::clone(&self.store).change(Arc::clone(&self.state), change).await?;
        Ok(Response::new(RemoveNamesResponse { removed: removed.try_into().unwrap_or(u64::MAX) }))
    }

    async fn lookup(&self, request: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        let text = request.into_inner().name;
        let invalid =
            |error: &dyn ToString| Status::invalid_argument(format!("{text:?} is no name: {}", error.to_string()));
        if text.is_empty() {
            return Err(invalid(&"it is empty"));
        }
        let mut name = Name::from_utf8(&text).map_err(|error| invalid(&error))?;
        name.set_fqdn(true);
        let ask = |record_type| {
            let query = Query::query(name.clone(), record_type);
            async move { self.handler.resolve(&query).await }
        };
        let (v4, v6) = tokio::join!(ask(RecordType::A), ask(RecordType::AAAA));
        let records = v4.answers.into_iter().chain(v6.answers);
        let addresses = records.filter_map(|record| record.data.ip_addr()).map(Into::into).collect();
        Ok(Response::new(LookupResponse { addresses }))
    }

    type WatchStream = Watched;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Watched>, Status> {
        let name = self.zone.name(&request.into_inner().name).map_err(|error| refused(error.into()))?;
        Ok(Response::new(watch::watch(Arc::clone(&self.state), name)))
    }

    async fn list_records(&self, _: Request<ListRecordsRequest>) -> Result<Response<ListRecordsResponse>, Status> {
        let records = self.state.read(|names| names.views().flat_map(|view| convert::shown(&view)).collect());
        Ok(Response::new(ListRecordsResponse { records }))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let records: usize = self.state.read(|names| names.views().map(|view| view.record.names().len()).sum());
        let anycast = SocketAddr::new(Zone::server_address().into(), 53);
        let upstreams = self.upstream.servers().into_iter();
        Ok(Response::new(GetStatusResponse {
            version: weft_service::VERSION.to_owned(),
            zone: self.zone.apex().to_string(),
            address: Some(self.state.address().unwrap_or(anycast).into()),
            upstreams: upstreams.map(|endpoint| Server { endpoint: Some(endpoint.into()) }).collect(),
            ttl_seconds: self.zone.ttl_seconds(),
            records: records.try_into().unwrap_or(u64::MAX),
            problems: self.state.problems.list(),
        }))
    }
}
