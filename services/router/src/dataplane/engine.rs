//! The thread that moves frames, and the handle by which the control side reaches it.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use rustix::{
    event::{
        EventfdFlags, Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
        eventfd,
    },
    io::Errno,
};
use tokio::sync::mpsc::{
    self,
    error::{TryRecvError, TrySendError},
};
use weft_router_core::forward::DropReason;
use weft_types::PeerName;

use super::{Command, DataPlaneConfig, Event, Statistics, packets::Packets, socket::DataSocket, statistics::Counters};
use crate::{control::TakeDatagrams, direction::Direction};

/// Commands that may wait for the thread; whoever sends more waits.
const COMMAND_QUEUE: usize = 1024;
/// Datagrams from control connections that may wait for the thread.
const STREAM_QUEUE: usize = 512;
/// Datagrams from control connections that are opened before sockets get their turn.
const STREAM_PER_TURN: usize = 64;
/// Events that may wait for the control side.
const EVENT_QUEUE: usize = 1024;

/// Reaches the thread that moves frames. The thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct DataPlaneHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    commands: Option<mpsc::Sender<Command>>,
    wake: Arc<OwnedFd>,
    counters: Arc<Counters>,
    local_address: SocketAddr,
    inbox: Inbox,
    thread: Option<JoinHandle<()>>,
}

/// The thread that moves frames has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet path has stopped")]
pub struct Stopped;

impl DataPlaneHandle {
    /// Gives the thread a command and wakes it; waits while too many commands wait already.
    ///
    /// # Errors
    /// [`Stopped`] if the thread has ended.
    pub async fn send(&self, command: Command) -> Result<(), Stopped> {
        let commands = self.shared.commands.as_ref().ok_or(Stopped)?;
        commands.send(command).await.map_err(|_| Stopped)?;
        wake(&self.shared.wake);
        Ok(())
    }

    /// Returns where datagrams go that came inside control connections.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        self.shared.inbox.clone()
    }

    /// Returns the address that the UDP socket is bound to.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.shared.local_address
    }

    /// Reads all counters.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.shared.counters.read()
    }
}

/// Hands the thread datagrams that came inside control connections. Those that do not fit its queue are dropped and counted.
#[derive(Debug, Clone)]
pub struct Inbox {
    queue: mpsc::Sender<(PeerName, Bytes)>,
    wake: Arc<OwnedFd>,
    counters: Arc<Counters>,
}

impl TakeDatagrams for Inbox {
    fn take(&self, from: PeerName, datagram: Bytes) {
        if self.queue.try_send((from, datagram)).is_ok() {
            wake(&self.wake);
        } else {
            self.counters.add_drops(Direction::Received, DropReason::StreamFull, 1);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.commands = None;
        wake(&self.wake);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

fn wake(eventfd: &impl AsFd) {
    // Fails only when 2^64 - 2 wake-ups are pending, and then the thread is awake.
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

pub(super) fn spawn(config: DataPlaneConfig) -> anyhow::Result<(DataPlaneHandle, mpsc::Receiver<Event>)> {
    let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
    let (event_queue, events) = mpsc::channel(EVENT_QUEUE);
    let (stream_sender, stream_queue) = mpsc::channel(STREAM_QUEUE);
    let socket = DataSocket::open(config.bind_address, config.port, &config.masked)?;
    let local_address = socket.local_address().context("failed to read the address of the UDP socket")?;
    let mut facilities = config.tap.facilities().clone();
    facilities.extend(socket.facilities());
    let counters = Arc::new(Counters::new(facilities));
    let wake =
        Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).context("failed to make an eventfd")?);
    let poll = epoll::create(CreateFlags::CLOEXEC).context("failed to make an epoll instance")?;
    for (source, number) in [(config.tap.as_fd(), TAP), (socket.as_fd(), SOCKET), (wake.as_fd(), WAKE)] {
        epoll::add(&poll, source, EventData::new_u64(number), EventFlags::IN)
            .context("failed to watch a descriptor")?;
    }
    let thread = {
        let (wake, counters) = (Arc::clone(&wake), Arc::clone(&counters));
        std::thread::Builder::new()
            .name("dataplane".to_owned())
            .spawn(move || {
                let packets = Packets::new(config.tap, socket, config.mtu, config.local, counters);
                let engine = Engine {
                    packets,
                    poll,
                    wake,
                    commands: command_queue,
                    streams: stream_queue,
                    events: event_queue,
                    waiting: VecDeque::new(),
                    spin: Duration::ZERO,
                    tap_lost: false,
                };
                engine.run();
            })
            .context("failed to start the thread of the packet path")?
    };
    let inbox = Inbox { queue: stream_sender, wake: Arc::clone(&wake), counters: Arc::clone(&counters) };
    let shared = Shared { commands: Some(commands), wake, counters, local_address, inbox, thread: Some(thread) };
    Ok((DataPlaneHandle { shared: Arc::new(shared) }, events))
}

const TAP: u64 = 0;
const SOCKET: u64 = 1;
const WAKE: u64 = 2;

/// The longest wait that is spent awake: about what a wake-up on another core costs.
const MAX_SPIN: Duration = Duration::from_micros(50);

/// Bytes of one turn that mean bulk traffic, which gains from batches and not from a thread that waits awake.
const BULK: usize = 16 << 10;
/// How long after bulk traffic waits are slept.
const AFTER_BULK: Duration = Duration::from_millis(1);

#[expect(clippy::disallowed_methods, reason = "the one place where the packet path reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

/// The loop of the thread.
struct Engine {
    packets: Packets,
    poll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: mpsc::Receiver<Command>,
    streams: mpsc::Receiver<(PeerName, Bytes)>,
    events: mpsc::Sender<Event>,
    /// Events that found the queue full.
    waiting: VecDeque<Event>,
    /// How long to stay awake without work.
    spin: Duration,
    tap_lost: bool,
}

/// What may have work.
#[derive(Clone, Copy)]
struct Ready {
    tap: bool,
    socket: bool,
}

impl Engine {
    fn run(mut self) {
        let mut now = clock();
        let mut last_work = now;
        let mut last_bulk = None;
        let mut timer = None;
        let mut ready = Ready { tap: true, socket: true };
        loop {
            if self.take_commands(now).is_err() {
                return;
            }
            let mut bytes = if ready.socket { self.packets.receive(now) } else { 0 };
            bytes += self.read_streams(now);
            if ready.tap && !self.tap_lost {
                bytes += self.read_tap(now);
            }
            if self.packets.take_timers_changed() {
                timer = Some(now);
            }
            if timer.is_some_and(|timer| timer <= now) {
                self.packets.handle_timeout(now);
                timer = self.packets.poll_timeout();
            }
            self.packets.settle();
            self.report();
            now = clock();
            ready = Ready { tap: true, socket: true };
            if bytes >= BULK {
                last_bulk = Some(now);
            }
            let bulk = last_bulk.is_some_and(|last| now.saturating_duration_since(last) < AFTER_BULK);
            if bytes > 0 {
                last_work = now;
            } else if !bulk && now.saturating_duration_since(last_work) < self.spin {
                std::hint::spin_loop();
            } else {
                ready = self.sleep(now, timer);
                let woken = clock();
                self.adapt(woken.saturating_duration_since(now));
                (now, last_work) = (woken, woken);
            }
        }
    }

    fn take_commands(&mut self, now: Instant) -> Result<(), Stopped> {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.packets.handle_command(command, now),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Stopped),
            }
        }
    }

    fn read_streams(&mut self, now: Instant) -> usize {
        let mut bytes = 0;
        for _ in 0..STREAM_PER_TURN {
            let Ok((from, datagram)) = self.streams.try_recv() else { break };
            bytes += datagram.len();
            self.packets.receive_stream(from, &datagram, now);
        }
        bytes
    }

    fn read_tap(&mut self, now: Instant) -> usize {
        match self.packets.read_tap(now) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(%error, "the TAP device is gone");
                self.waiting.push_back(Event::TapLost);
                self.tap_lost = true;
                // A descriptor without its device would wake us for ever. It may have left the list by itself.
                let _ = epoll::delete(&self.poll, self.packets.tap());
                0
            }
        }
    }

    fn report(&mut self) {
        while let Some(event) = self.packets.poll_event() {
            self.waiting.retain(|old| !outdates(&event, old));
            self.waiting.push_back(event);
        }
        while let Some(event) = self.waiting.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.waiting.push_front(event);
                    return;
                }
                Err(TrySendError::Closed(_)) => {}
            }
        }
    }

    fn sleep(&self, now: Instant, timer: Option<Instant>) -> Ready {
        let mut timeout = timer.map(|timer| timer.saturating_duration_since(now));
        if !self.waiting.is_empty() {
            let retry = Duration::from_millis(10);
            timeout = Some(timeout.map_or(retry, |timeout| timeout.min(retry)));
        }
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 3];
        let mut ready = Ready { tap: false, socket: false };
        match epoll::wait(&self.poll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => {
                for event in events {
                    match event.data.u64() {
                        TAP => ready.tap = true,
                        SOCKET => ready.socket = true,
                        _ => {
                            // Only the wake-up matters, not how many there were.
                            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                        }
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => tracing::error!(%error, "failed to wait for frames"),
        }
        ready
    }

    /// Spins next time if that would have saved this sleep, and less if not (as the kernel's halt polling does).
    fn adapt(&mut self, slept: Duration) {
        if slept < MAX_SPIN {
            self.spin = MAX_SPIN.min(self.spin * 2 + Duration::from_micros(5));
        } else {
            self.spin /= 2;
        }
    }
}

/// Tells whether nobody needs to hear of the old event after the new one.
fn outdates(new: &Event, old: &Event) -> bool {
    match (new, old) {
        (
            Event::PathUp { peer: new, .. } | Event::PathDown { peer: new, .. },
            Event::PathUp { peer: old, .. } | Event::PathDown { peer: old, .. },
        )
        | (Event::LinkChanged { peer: new, .. }, Event::LinkChanged { peer: old, .. })
        | (Event::Observed { peer: new, .. }, Event::Observed { peer: old, .. }) => new == old,
        (
            Event::PathUp { .. }
            | Event::PathDown { .. }
            | Event::LinkChanged { .. }
            | Event::Observed { .. }
            | Event::RekeyWanted { .. }
            | Event::SessionExpired { .. }
            | Event::TapLost,
            _,
        ) => false,
    }
}
