//! The runbook in docs/operations.md.

use std::{collections::BTreeMap, fs};

use anyhow::Context;

/// Where it is.
pub const FILE: &str = "docs/operations.md";

/// The runbook's entries.
#[derive(Debug, Clone)]
pub struct Runbook {
    /// By the anchors of their headings.
    pub alerts: BTreeMap<String, Entry>,
    /// By the words that `weft status --output json` has.
    pub reasons: BTreeMap<String, Entry>,
}

/// An entry.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// What weft says, with `…` for what differs.
    pub sentences: Vec<String>,
    /// What to do.
    pub text: String,
}

impl Runbook {
    /// Reads it.
    ///
    /// # Errors
    /// If the page cannot be read or has no runbook.
    pub fn read() -> anyhow::Result<Self> {
        let page = fs::read_to_string(crate::project(FILE)).context(FILE)?;
        let (_, runbook) = page.split_once("\n## Runbook\n").context("no section Runbook")?;
        let (_, runbook) = runbook.split_once("\n### Alerts\n").context("no section Alerts")?;
        let (alerts, reasons) = runbook.split_once("\n### Reasons\n").context("no section Reasons")?;
        Ok(Self { alerts: entries(alerts), reasons: entries(reasons) })
    }
}

/// Takes a section apart at its headings.
fn entries(section: &str) -> BTreeMap<String, Entry> {
    let entry = |part: &str| {
        let (heading, body) = part.split_once('\n').unwrap_or((part, ""));
        let (quotes, text): (Vec<&str>, Vec<&str>) = body.lines().partition(|line| line.starts_with("> "));
        let sentences = quotes.iter().map(|line| line.trim_start_matches("> ").to_owned()).collect();
        (anchor(heading), Entry { sentences, text: text.join("\n").trim().to_owned() })
    };
    section.split("\n#### ").skip(1).map(entry).collect()
}

/// Returns the anchor that a heading of one word gets.
fn anchor(heading: &str) -> String {
    heading.trim().trim_matches('`').to_lowercase()
}
