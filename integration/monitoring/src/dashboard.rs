//! What a dashboard consists of, and how Grafana 10 and later write it.

use serde_json::{Value, json};

/// Columns of Grafana's grid.
const COLUMNS: u8 = 24;

/// The version of the file's shape: that of Grafana 10.
const SCHEMA: u8 = 39;

/// A dashboard.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Its file's name, and the end of its address in Grafana.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What it answers, in one sentence.
    pub description: &'static str,
    /// Whether one host is shown, or any number.
    pub one_host: bool,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A row of panels under a title.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its title.
    pub title: &'static str,
    /// Its panels, from left to right and then down.
    pub panels: Vec<Panel>,
}

/// How a panel shows its figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As lines over time.
    Lines,
    /// As large numbers, as of now.
    Numbers(Good),
    /// As rows of labels with a number each, as of now.
    Table,
}

/// Which numbers are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Good {
    /// All are the same.
    Any,
    /// Only 0.
    Zero,
    /// 1, which is shown as "yes", as 0 is as "no".
    Yes,
    /// The more the better: from this number of hundredths.
    From(u8),
}

/// What a panel's figures are measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// How many.
    Count,
    /// How many per second.
    PerSecond,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// A part of the whole.
    Share,
}

impl Unit {
    /// Returns Grafana's name of it.
    #[must_use]
    pub const fn grafana(self) -> &'static str {
        match self {
            Self::Count => "short",
            Self::PerSecond => "cps",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "binBps",
            Self::Share => "percentunit",
        }
    }
}

/// A panel.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Its title.
    pub title: &'static str,
    /// What it tells and what is normal.
    pub description: &'static str,
    /// What its figures are measured in.
    pub unit: Unit,
    /// How it shows them.
    pub kind: Kind,
    /// Its width in columns of 24.
    pub width: u8,
    /// What it shows.
    pub queries: Vec<Query>,
    /// When it has data, if not always.
    pub only: Option<&'static str>,
}

/// A query of a panel.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// In PromQL, with Grafana's `$host` and `$__rate_interval`.
    pub expression: &'static str,
    /// What one line of it is called.
    pub legend: &'static str,
}

impl Panel {
    /// Makes a panel of lines over time, a third of the dashboard wide.
    #[must_use]
    pub const fn lines(title: &'static str, unit: Unit, description: &'static str) -> Self {
        Self { title, description, unit, kind: Kind::Lines, width: 8, queries: Vec::new(), only: None }
    }

    /// Makes a panel of large numbers.
    #[must_use]
    pub const fn numbers(title: &'static str, unit: Unit, good: Good, description: &'static str) -> Self {
        Self { title, description, unit, kind: Kind::Numbers(good), width: 4, queries: Vec::new(), only: None }
    }

    /// Makes a table.
    #[must_use]
    pub const fn table(title: &'static str, unit: Unit, description: &'static str) -> Self {
        Self { title, description, unit, kind: Kind::Table, width: 12, queries: Vec::new(), only: None }
    }

    /// Sets the width, in columns of 24.
    #[must_use]
    pub fn width(self, width: u8) -> Self {
        Self { width, ..self }
    }

    /// Adds a query.
    #[must_use]
    pub fn query(mut self, expression: &'static str, legend: &'static str) -> Self {
        self.queries.push(Query { expression, legend });
        self
    }

    /// Says that there is data only at some times, as in "while a problem lasts".
    #[must_use]
    pub fn only(self, when: &'static str) -> Self {
        Self { only: Some(when), ..self }
    }

    const fn height(&self) -> u8 {
        match self.kind {
            Kind::Numbers(_) => 4,
            Kind::Lines | Kind::Table => 8,
        }
    }

    fn json(&self, id: u32, x: u8, y: u32) -> Value {
        let description = match self.only {
            Some(when) => format!("{} There is data only {when}.", self.description),
            None => self.description.to_owned(),
        };
        let targets: Vec<Value> = self.queries.iter().enumerate().map(|(at, query)| self.target(at, query)).collect();
        let mut panel = json!({
            "id": id,
            "type": match self.kind {
                Kind::Lines => "timeseries",
                Kind::Numbers(_) => "stat",
                Kind::Table => "table",
            },
            "title": self.title,
            "description": description,
            "datasource": datasource(),
            "gridPos": { "h": self.height(), "w": self.width, "x": x, "y": y },
            "fieldConfig": { "defaults": self.field(), "overrides": [] },
            "options": self.options(),
            "targets": targets,
        });
        if self.kind == Kind::Table {
            panel["transformations"] = json!([
                { "id": "organize", "options": { "excludeByName": { "Time": true, "__name__": true, "instance": true, "job": true } } },
            ]);
        }
        panel
    }

    fn target(&self, at: usize, query: &Query) -> Value {
        let now = self.kind != Kind::Lines;
        let letter = char::from(b'A' + u8::try_from(at).unwrap_or_default());
        json!({
            "refId": letter.to_string(),
            "datasource": datasource(),
            "editorMode": "code",
            "expr": query.expression,
            "legendFormat": query.legend,
            "instant": now,
            "range": !now,
            "format": if self.kind == Kind::Table { "table" } else { "time_series" },
        })
    }

    fn field(&self) -> Value {
        let step = |colour: &str, from: Option<f64>| json!({ "color": colour, "value": from });
        let (steps, mappings) = match self.kind {
            Kind::Numbers(Good::Zero) => (vec![step("green", None), step("red", Some(1.0))], json!([])),
            Kind::Numbers(Good::Yes) => (
                vec![step("red", None), step("green", Some(1.0))],
                json!([{ "type": "value", "options": { "0": { "text": "no" }, "1": { "text": "yes" } } }]),
            ),
            Kind::Numbers(Good::From(hundredths)) => {
                (vec![step("red", None), step("green", Some(f64::from(hundredths) / 100.0))], json!([]))
            }
            Kind::Numbers(Good::Any) | Kind::Lines | Kind::Table => (vec![step("blue", None)], json!([])),
        };
        let mut field = json!({
            "unit": self.unit.grafana(),
            "thresholds": { "mode": "absolute", "steps": steps },
            "mappings": mappings,
        });
        if self.kind == Kind::Lines {
            field["min"] = json!(0);
            field["color"] = json!({ "mode": "palette-classic" });
            field["custom"] = json!({ "drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false });
        }
        field
    }

    fn options(&self) -> Value {
        match self.kind {
            Kind::Lines => json!({
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Kind::Numbers(_) => json!({
                "colorMode": "background",
                "graphMode": "none",
                "textMode": if self.queries.iter().any(|query| query.legend.contains("{{")) { "value_and_name" } else { "value" },
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
            }),
            Kind::Table => json!({ "showHeader": true }),
        }
    }
}

impl Dashboard {
    /// Returns every panel.
    pub fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|row| &row.panels)
    }

    /// Returns the file that Grafana reads.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "uid": format!("weft-{}", self.name),
            "title": format!("weft: {}", self.title),
            "description": self.description,
            "tags": ["weft"],
            "schemaVersion": SCHEMA,
            "editable": false,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "browser",
            "links": [{
                "type": "dashboards", "title": "weft", "tags": ["weft"], "asDropdown": true, "includeVars": true,
                "keepTime": true,
            }],
            "annotations": { "list": [{
                "name": "Alerts", "enable": true, "iconColor": "red", "datasource": datasource(),
                "expr": "ALERTS{alertname=~\"Weft.+\", alertstate=\"firing\", host=~\"$host|\"}",
                "titleFormat": "{{alertname}}", "textFormat": "{{host}} {{service}} {{reason}}",
            }] },
            "templating": { "list": [self.host_variable()] },
            "panels": self.panels_json(),
        })
    }

    fn host_variable(&self) -> Value {
        let query = "label_values(up{job=\"weft\"}, host)";
        let all = json!({ "selected": true, "text": "All", "value": "$__all" });
        json!({
            "name": "host",
            "label": "Host",
            "description": "As targets.yml names it.",
            "type": "query",
            "datasource": datasource(),
            "definition": query,
            "query": { "query": query, "refId": "hosts" },
            "refresh": 2,
            "sort": 1,
            "multi": !self.one_host,
            "includeAll": !self.one_host,
            "current": if self.one_host { json!({}) } else { all },
        })
    }

    fn panels_json(&self) -> Vec<Value> {
        let mut panels = Vec::new();
        let (mut id, mut y) = (1, 0);
        for row in &self.rows {
            panels.push(json!({
                "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
                "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": y },
            }));
            (id, y) = (id + 1, y + 1);
            let (mut x, mut height) = (0, 0);
            for panel in &row.panels {
                if x + panel.width > COLUMNS {
                    (x, y, height) = (0, y + u32::from(height), 0);
                }
                panels.push(panel.json(id, x, y));
                height = height.max(panel.height());
                (id, x) = (id + 1, x + panel.width);
            }
            y += u32::from(height);
        }
        panels
    }
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "weft-prometheus" })
}
