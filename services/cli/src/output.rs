//! Where results and complaints go.

use std::{
    fmt::Display,
    io::{self, Write},
};

use anyhow::Context;
use serde::Serialize;

use crate::Format;

/// The command's writers, and how to print.
pub(crate) struct Output<'a> {
    format: Format,
    out: &'a mut dyn Write,
    complaints: &'a mut dyn Write,
}

impl<'a> Output<'a> {
    pub(crate) fn new(format: Format, out: &'a mut dyn Write, complaints: &'a mut dyn Write) -> Self {
        Self { format, out, complaints }
    }

    /// Prints `value`, as JSON or as its text.
    pub(crate) fn print<T: Serialize + Display>(&mut self, value: &T) -> anyhow::Result<()> {
        match self.format {
            Format::Text => write!(self.out, "{value}")?,
            Format::Json => {
                let json = serde_json::to_string_pretty(value).context("the result cannot be written as JSON")?;
                writeln!(self.out, "{json}")?;
            }
        }
        Ok(self.out.flush()?)
    }

    /// Writes one line for people to stderr. If that is closed, nobody is there to be told.
    pub(crate) fn complain(&mut self, line: &str) {
        let _: io::Result<()> = writeln!(self.complaints, "{line}").and_then(|()| self.complaints.flush());
    }
}
