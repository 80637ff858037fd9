//! The thread that moves frames, and the handle by which the control side reaches it.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread::JoinHandle,
};

use anyhow::Context as _;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc;

use super::{Command, DataPlaneConfig, Event, Statistics, statistics::Counters};

/// Commands that may wait for the thread; whoever sends more waits.
const COMMAND_QUEUE: usize = 1024;
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

    /// Reads all counters.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.shared.counters.read()
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
    let (commands, mut command_queue) = mpsc::channel(COMMAND_QUEUE);
    let (_event_queue, events) = mpsc::channel::<Event>(EVENT_QUEUE);
    let wake =
        Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).context("failed to make an eventfd")?);
    let counters = Arc::new(Counters::new(config.tap.facilities().clone()));
    let thread = std::thread::Builder::new()
        .name("dataplane".to_owned())
        .spawn(move || while command_queue.blocking_recv().is_some() {})
        .context("failed to start the thread of the packet path")?;
    let shared = Shared { commands: Some(commands), wake, counters, thread: Some(thread) };
    Ok((DataPlaneHandle { shared: Arc::new(shared) }, events))
}
