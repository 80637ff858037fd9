//! Where results and complaints go.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use anyhow::Context;
use serde::Serialize;

use crate::{Format, progress::Progress, schema::Versioned};

/// The command's writers, and how to print.
pub(crate) struct Output<'a> {
    format: Format,
    as_weave: bool,
    /// Whether what is printed is seen on a terminal.
    terminal: bool,
    /// Whether what comes next is shown anew.
    anew: bool,
    progress: Progress,
    out: &'a mut dyn Write,
    complaints: &'a mut dyn Write,
}

impl<'a> Output<'a> {
    pub(crate) fn new(format: Format, out: &'a mut dyn Write, complaints: &'a mut dyn Write) -> Self {
        let (terminal, progress) = (io::stdout().is_terminal(), Progress::default());
        Self { format, as_weave: false, terminal, anew: false, progress, out, complaints }
    }

    /// Returns what says what is waited for. It is out of the way of all that is printed here.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Prints for somebody who sees it on a terminal, or who does not.
    pub(crate) const fn seen_on_terminal(mut self, terminal: bool) -> Self {
        self.terminal = terminal;
        self
    }

    /// Tells whether what is printed is seen on a terminal.
    pub(crate) const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints as Weave Net does, where that differs.
    pub(crate) const fn in_weaves_words(mut self) -> Self {
        self.as_weave = true;
        self
    }

    /// Tells whether Weave Net's output is wanted.
    pub(crate) const fn is_weave(&self) -> bool {
        self.as_weave
    }

    /// Has what comes next shown anew: on an empty screen where there is one, else after an empty line; JSON follows JSON.
    pub(crate) const fn begin_screen(&mut self) {
        self.anew = true;
    }

    /// Prints a text as it is.
    pub(crate) fn write(&mut self, text: &str) -> anyhow::Result<()> {
        self.progress.erase();
        self.clear()?;
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn clear(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.anew) {
            return Ok(());
        }
        let text: &[u8] = match self.format {
            Format::Json => &[],
            Format::Text if self.terminal => b"\x1b[H\x1b[2J",
            Format::Text => b"\n",
        };
        self.out.write_all(text)?;
        self.out.flush()
    }

    /// Prints `value`, as JSON or as its text.
    pub(crate) fn print<T: Serialize + Display>(&mut self, value: &T) -> anyhow::Result<()> {
        match self.format {
            Format::Text => self.write(&value.to_string()),
            Format::Json => self.print_json(&Versioned::new(value)),
        }
    }

    /// Prints `value` as JSON, which has no other form.
    pub(crate) fn print_json<T: Serialize>(&mut self, value: &T) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(value).context("the result cannot be written as JSON")?;
        self.write(&format!("{json}\n"))
    }

    /// Writes one line for people to stderr. If that is closed, nobody is there to be told.
    pub(crate) fn complain(&mut self, line: &str) {
        self.progress.erase();
        let _: io::Result<()> = writeln!(self.complaints, "{line}").and_then(|()| self.complaints.flush());
    }
}
