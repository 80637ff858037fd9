//! Packet sockets of one VXLAN device (packet(7)): probes leave and come by them, and nothing else does.

use std::{
    io::{self, Read as _},
    sync::Arc,
};

use anyhow::Context;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};
use weft_router_core::{
    trusted::probe::{self, BATCH_ETHERTYPE, BATCH_HEADERS, ETHERTYPE, Probe},
    virtio,
};
use weft_types::PeerName;

use crate::socket::{packet_address, set_option};

/// Room for the largest frame that the kernel joins, and its header.
const BUFFER: usize = virtio::HEADER + 65_535 + 32;
/// How much may wait in a socket, in bytes: a few batches.
const WAITING: usize = 1 << 18;

/// Arrivals of one device that may wait: a batch that was cut, and probes as many. More are dropped, and asked for again.
pub(super) const SHARE: usize = 16;

/// What came by the device of a peer.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Its place among those that wait; given back with it.
    _place: Option<OwnedSemaphorePermit>,
    pub(super) peer: PeerName,
    /// Which sockets of the peer.
    pub(super) number: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Probe(Probe),
    /// A frame that may be of a batch, and the header before it.
    Batch([u8; virtio::HEADER], Vec<u8>),
    /// Nothing will come any more.
    Broken(io::Error),
}

/// The sockets of one device.
#[derive(Debug)]
pub(super) struct Sockets {
    probes: Arc<AsyncFd<Socket>>,
    batches: Arc<AsyncFd<Socket>>,
    readers: [JoinHandle<()>; 2],
}

impl Sockets {
    /// Opens the sockets of a device, whose frames go to `arrivals`; of those that wait there, no more than [`SHARE`] are its own.
    pub(super) fn open(
        device: &str,
        peer: PeerName,
        number: u64,
        arrivals: &mpsc::Sender<Arrival>,
    ) -> anyhow::Result<Self> {
        let index = nix::net::if_::if_nametoindex(device).with_context(|| format!("the device {device} is missing"))?;
        let open = |kind| socket(index, kind).with_context(|| format!("failed to open a packet socket on {device}"));
        let (probes, batches) = (Arc::new(open(ETHERTYPE)?), Arc::new(open(BATCH_ETHERTYPE)?));
        let places = Arc::new(Semaphore::new(SHARE));
        let tell = |socket: &Arc<AsyncFd<Socket>>, read: fn(&[u8]) -> Option<What>| {
            let (socket, arrivals, places) = (Arc::clone(socket), arrivals.clone(), Arc::clone(&places));
            tokio::spawn(async move {
                let send = |what| {
                    let place = Arc::clone(&places).try_acquire_owned().ok();
                    let arrival = place.map(|place| Arrival { _place: Some(place), peer, number, what });
                    if arrival.is_none_or(|arrival| arrivals.try_send(arrival).is_err()) {
                        tracing::trace!(%peer, "a probe found the queue full");
                    }
                };
                let error = read_all(&socket, read, send).await;
                // Without this the peer would not be heard again, so it waits. If it fails, nobody listens any more.
                let _ = arrivals.send(Arrival { _place: None, peer, number, what: What::Broken(error) }).await;
            })
        };
        let readers = [tell(&probes, |frame| Probe::decode(frame).map(What::Probe)), tell(&batches, read_batch)];
        Ok(Self { probes, batches, readers })
    }

    /// Sends a probe in a frame of so many bytes. What the kernel refuses gets lost like anything else.
    pub(super) fn send(&self, probe: Probe, length: usize) {
        note(self.probes.get_ref().send(&probe.encode(length)));
    }

    /// Sends a batch, as a kernel hands it to a device that cuts it.
    pub(super) fn send_batch(&self, token: [u8; 16], mtu: u16) {
        let Some((offload, frame)) = probe::batch(token, mtu) else { return };
        let bytes = [&offload.encode(BATCH_HEADERS)[..], &frame].concat();
        note(self.batches.get_ref().send(&bytes));
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

fn note(sent: io::Result<usize>) {
    if let Err(error) = sent {
        tracing::trace!(%error, "a probe was not sent");
    }
}

fn read_batch(bytes: &[u8]) -> Option<What> {
    let (header, frame) = bytes.split_first_chunk()?;
    Some(What::Batch(*header, frame.to_vec()))
}

/// Reads until nothing will come any more, and returns why: the device was switched off or is gone.
async fn read_all(socket: &AsyncFd<Socket>, read: fn(&[u8]) -> Option<What>, send: impl Fn(What)) -> io::Error {
    let mut buffer = vec![0; BUFFER];
    loop {
        // That the device is gone makes the socket broken, and not readable.
        let outcome = match socket.ready(Interest::READABLE | Interest::ERROR).await {
            Ok(mut ready) => match ready.try_io(|socket| socket.get_ref().read(&mut buffer)) {
                Ok(outcome) => outcome,
                Err(_) => continue,
            },
            Err(error) => Err(error),
        };
        match outcome {
            Ok(length) => {
                if let Some(what) = read(&buffer[..length]) {
                    send(what);
                }
            }
            Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            Err(error) => return error,
        }
    }
}

/// Opens a socket for frames of one kind that the bridge hands to the host, since they are for nobody else.
#[expect(unsafe_code, reason = "the runtime takes descriptors on trust")]
fn socket(index: u32, kind: u16) -> anyhow::Result<AsyncFd<Socket>> {
    // Without a kind nothing comes before it is bound to the device.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
    socket.set_recv_buffer_size(WAITING)?;
    if kind == BATCH_ETHERTYPE {
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    }
    socket.bind(&packet_address(index, kind)?)?;
    // SAFETY: the socket owns its descriptor, which is open for as long as the socket is.
    Ok(unsafe { AsyncFd::register(socket) }?)
}
