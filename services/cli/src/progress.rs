//! What a command waits for, on a terminal and when it takes longer than a second.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io::{self, Write},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use tokio::time::{Instant, interval_at};

/// How long a command may take without a word, and how often the word is renewed.
const PATIENCE: Duration = Duration::from_secs(1);

/// Longest line, in characters: one that the terminal breaks in two cannot be taken back.
const LONGEST: usize = 76;

/// Goes back to the beginning of the line and empties it.
const ERASE: &str = "\r\x1b[K";

/// What a command waits for at present. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Rc<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether somebody looks at stderr.
    terminal: Cell<bool>,
    /// What is waited for, each under its number, and since when.
    waits: RefCell<Vec<(u64, String, Instant)>>,
    numbers: Cell<u64>,
    /// Whether there is a line to take back.
    drawn: Cell<bool>,
}

/// Something is waited for, until this is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    progress: Progress,
    number: u64,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let State { waits, .. } = &*self.progress.0;
        waits.borrow_mut().retain(|(number, ..)| *number != self.number);
        if waits.borrow().is_empty() {
            self.progress.erase();
        }
    }
}

impl Progress {
    /// Has it shown, or not.
    pub(crate) fn on_terminal(&self, terminal: bool) {
        self.0.terminal.set(terminal);
    }

    /// Notes that `what` is waited for, as in "waiting for ipam".
    pub(crate) fn wait(&self, what: impl Into<String>) -> Wait {
        let number = self.0.numbers.get();
        self.0.numbers.set(number + 1);
        self.0.waits.borrow_mut().push((number, what.into(), Instant::now()));
        Wait { progress: self.clone(), number }
    }

    /// Does some work, and shows what it waits for if it takes its time.
    pub(crate) async fn shown<F: Future>(&self, work: F) -> F::Output {
        if !self.0.terminal.get() {
            return work.await;
        }
        let mut work = pin!(work);
        let began = Instant::now();
        let mut ticks = interval_at(began + PATIENCE, PATIENCE);
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    self.erase();
                    return done;
                }
                _ = ticks.tick() => self.draw(),
            }
        }
    }

    /// Takes the line back, so that something else may be written.
    pub(crate) fn erase(&self) {
        if self.0.drawn.replace(false) {
            write(ERASE);
        }
    }

    fn draw(&self) {
        match self.line(Instant::now()) {
            Some(line) => {
                self.0.drawn.set(true);
                write(&format!("{ERASE}{line}"));
            }
            None => self.erase(),
        }
    }

    /// Says what is waited for, and for how long in all, if that is long enough to speak of.
    fn line(&self, now: Instant) -> Option<String> {
        let waits = self.0.waits.borrow();
        let began = waits.iter().map(|(_, _, began)| *began).min()?;
        let waited = now.saturating_duration_since(began);
        let mut words: Vec<&str> = Vec::new();
        for (_, what, _) in waits.iter() {
            if !words.contains(&what.as_str()) {
                words.push(what);
            }
        }
        let line = format!("weft: {} ({} s)", words.join(", "), waited.as_secs());
        (waited >= PATIENCE).then(|| line.chars().take(LONGEST).collect())
    }
}

/// Whoever looks at a terminal that is gone sees nothing anyway.
fn write(text: &str) {
    let mut stderr = io::stderr().lock();
    let _: io::Result<()> = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_said_once() {
        let progress = Progress::default();
        let later = Instant::now() + Duration::from_millis(3500);
        let line = |progress: &Progress| progress.line(later);
        assert_eq!(line(&progress), None);
        let launch = progress.wait("starting weft");
        let waits = ["waiting for ipam", "waiting for dns", "waiting for ipam"].map(|what| progress.wait(what));
        let all = "weft: starting weft, waiting for ipam, waiting for dns (3 s)";
        assert_eq!(line(&progress).as_deref(), Some(all));
        drop(waits);
        assert_eq!(line(&progress).as_deref(), Some("weft: starting weft (3 s)"));
        drop(launch);
        assert_eq!(line(&progress), None);
        let _long = progress.wait("x".repeat(200));
        assert_eq!(line(&progress).map(|line| line.chars().count()), Some(LONGEST));
    }

    #[test]
    fn only_the_wait_itself_counts() {
        let progress = Progress::default();
        let _wait = progress.wait("waiting for ipam");
        let line = |millis| progress.line(Instant::now() + Duration::from_millis(millis));
        assert_eq!(line(0), None, "it has just begun");
        assert_eq!(line(2500).as_deref(), Some("weft: waiting for ipam (2 s)"));
    }
}
