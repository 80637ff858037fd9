//! Tells others which addresses a name has, as they change.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hickory_proto::rr::{LowerName, Name, RecordType};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weft_dns_core::{Answer, Names};
use weft_proto::dns::v1::WatchResponse;

use crate::state::State;

/// Changes that a listener may be behind; then it hears only what counts in the end.
const BEHIND: usize = 1;

/// What a listener hears.
pub(crate) type Watched = ReceiverStream<Result<WatchResponse, Status>>;

/// Tells a listener the addresses of a name once the names of the mesh are known, and each time they change, until it is gone.
pub(crate) fn watch(state: Arc<State>, name: LowerName) -> Watched {
    let (sender, receiver) = mpsc::channel(BEHIND);
    let name = Name::from(name);
    tokio::spawn(async move {
        let gone = sender.clone();
        tokio::select! {
            () = tell(&state, &name, sender) => {}
            () = gone.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn tell(state: &State, name: &Name, listener: mpsc::Sender<Result<WatchResponse, Status>>) {
    state.subscribed().await;
    let mut versions = state.versions();
    let mut told = None;
    loop {
        versions.mark_unchanged();
        let addresses = state.read(|names| addresses(names, name));
        if told.as_ref() != Some(&addresses) {
            let response = WatchResponse { addresses: addresses.iter().map(|address| (*address).into()).collect() };
            if listener.send(Ok(response)).await.is_err() {
                return;
            }
            told = Some(addresses);
        }
        // The sender lives in this state.
        if versions.changed().await.is_err() {
            return;
        }
    }
}

/// Returns what a name is answered with, in order.
fn addresses(names: &Names, name: &Name) -> BTreeSet<IpAddr> {
    let of_type = |record_type| match names.answer(name, record_type, 0) {
        Answer::Local(reply) => reply.answers,
        Answer::Upstream => Vec::new(),
    };
    let records = [RecordType::A, RecordType::AAAA].into_iter().flat_map(of_type);
    records.filter_map(|record| record.data.ip_addr()).collect()
}
