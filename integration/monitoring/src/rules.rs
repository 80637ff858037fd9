//! The alerts, as Prometheus reads them.

use std::{collections::BTreeMap, fs};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Where they are.
pub const FILE: &str = "deploy/prometheus/weft.rules.yml";

/// The file.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Rules {
    /// Groups, each evaluated as one.
    pub groups: Vec<Group>,
}

/// Alerts that belong together.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its alerts.
    pub rules: Vec<Alert>,
}

/// An alert.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// Its name.
    pub alert: String,
    /// When it is there, in PromQL.
    pub expr: String,
    /// For how long that must be so before it fires.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub lasting: Option<String>,
    /// Labels that it gets.
    pub labels: BTreeMap<String, String>,
    /// What people read.
    pub annotations: BTreeMap<String, String>,
}

impl Rules {
    /// Reads the project's alerts.
    ///
    /// # Errors
    /// If the file cannot be read or has another shape.
    pub fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string(crate::project(FILE)).context(FILE)?;
        serde_saphyr::from_str(&text).context(FILE)
    }

    /// Returns every alert.
    pub fn alerts(&self) -> impl Iterator<Item = &Alert> {
        self.groups.iter().flat_map(|group| &group.rules)
    }

    /// Returns every alert, to be changed.
    pub fn alerts_mut(&mut self) -> impl Iterator<Item = &mut Alert> {
        self.groups.iter_mut().flat_map(|group| &mut group.rules)
    }
}
