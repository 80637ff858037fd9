//! Dashboards and alerts name only what services measure, and say everything that people need to read them.

use std::{collections::BTreeSet, fs};

use weft_metrics::{Family, Kind};
use weft_monitoring::{
    dashboard::{self, Dashboard, Panel},
    dashboards, project,
    query::{self, Names, Selector},
    rules::Rules,
};

/// Labels that Prometheus and its configuration give to every series.
const ADDED: [&str; 3] = ["host", "instance", "job"];

/// What Prometheus itself says, with the labels that alerts have.
const OF_PROMETHEUS: [(&str, &[&str]); 2] =
    [("up", &[]), ("ALERTS", &["alertname", "alertstate", "severity", "service", "reason"])];

fn families() -> impl Iterator<Item = &'static Family> {
    let of_services = [
        weft_router::metrics::FAMILIES,
        weft_ipam::metrics::FAMILIES,
        weft_dns::metrics::FAMILIES,
        weft_docker_proxy::metrics::FAMILIES,
        weft_metrics::shared::FAMILIES,
    ];
    of_services.into_iter().flatten()
}

/// Returns the definition of a sample's name, and whether that is the name of a histogram's buckets.
fn family(sample: &str) -> Option<(&'static Family, bool)> {
    families().find_map(|family| {
        let suffix = sample.strip_prefix(family.name)?;
        match (family.kind, suffix) {
            (Kind::Histogram, "_bucket") => Some((family, true)),
            (Kind::Histogram, "_sum" | "_count") | (Kind::Counter | Kind::Gauge, "") => Some((family, false)),
            _ => None,
        }
    })
}

/// Returns what is wrong with a selector, and the labels that its samples have.
fn check_selector(selector: &Selector) -> Result<Vec<&'static str>, String> {
    let Selector { metric, labels, function } = selector;
    let mut known: Vec<&str> = ADDED.to_vec();
    if let Some((_, labels)) = OF_PROMETHEUS.iter().find(|(name, _)| name == metric) {
        known.extend(*labels);
    } else {
        let (family, buckets) = family(metric).ok_or_else(|| format!("nobody measures {metric}"))?;
        known.extend(family.labels.iter().map(|label| label.name));
        if buckets {
            known.push("le");
        }
        let is_rate = matches!(function.as_str(), "rate" | "increase");
        if function != "present_over_time" && is_rate == (family.kind == Kind::Gauge) {
            return Err(format!("{metric} is a {}, but {function} is asked of it", family.kind.name()));
        }
        for (label, value) in labels {
            let described = family.labels.iter().find(|known| known.name == label.as_str());
            check_values(described.map_or("", |label| label.values), value)
                .map_err(|why| format!("{metric}: {why}"))?;
        }
    }
    match labels.iter().find(|(label, _)| !known.contains(&label.as_str())) {
        Some((label, _)) => Err(format!("{metric} has no label {label}")),
        None => Ok(known),
    }
}

/// Compares values with the description of a label, which lists them between backticks where they are few.
fn check_values(described: &str, asked: &str) -> Result<(), String> {
    let listed: Vec<&str> = described.split('`').skip(1).step_by(2).collect();
    let open = described.is_empty() || listed.len() < 2 || described.contains("as in") || described.contains("further");
    let unknown = asked.split('|').find(|value| !value.is_empty() && !listed.contains(value));
    match unknown {
        Some(value) if !open => Err(format!("no label has the value {value}: {described}")),
        _ => Ok(()),
    }
}

/// Checks a query with the texts that name labels of its results.
fn check_query(expression: &str, texts: &[&str]) -> Result<(), String> {
    let Names { selectors, grouped } = query::names(expression);
    if selectors.is_empty() {
        return Err("it asks for no metric".into());
    }
    let mut known = BTreeSet::new();
    for selector in &selectors {
        known.extend(check_selector(selector)?);
    }
    if let Some(label) = grouped.iter().find(|label| !known.contains(label.as_str())) {
        return Err(format!("nothing has the label {label} that it groups by"));
    }
    let aggregates = ["sum ", "max ", "min ", "count(", "count "].iter().any(|word| expression.contains(word));
    for label in texts.iter().flat_map(|text| query::placeholders(text)) {
        let there = if aggregates { grouped.contains(&label) } else { known.contains(label.as_str()) };
        if !there {
            return Err(format!("its results have no label {label}, which a text names"));
        }
    }
    Ok(())
}

fn panels(dashboards: &[Dashboard]) -> impl Iterator<Item = (String, &Panel)> {
    dashboards
        .iter()
        .flat_map(|dashboard| dashboard.panels().map(|panel| (format!("{}: {}", dashboard.title, panel.title), panel)))
}

#[test]
fn every_query_of_every_panel_names_what_is_measured() {
    let all = dashboards::all();
    for (place, panel) in panels(&all) {
        assert!(!panel.queries.is_empty(), "{place} shows nothing");
        for dashboard::Query { expression, legend } in &panel.queries {
            check_query(expression, &[legend]).unwrap_or_else(|why| panic!("{place}: {why}\n{expression}"));
            assert!(expression.contains("$host"), "{place} does not follow the chosen hosts");
        }
    }
}

#[test]
fn every_panel_says_what_it_shows() {
    let all = dashboards::all();
    for (place, panel) in panels(&all) {
        assert!(panel.description.ends_with('.'), "{place} has no description");
        assert!(panel.width <= 24 && panel.queries.len() <= 26, "{place} does not fit");
        let mut legends = BTreeSet::new();
        for query in &panel.queries {
            assert!(!query.legend.is_empty() && legends.insert(query.legend), "{place} lacks a legend of its own");
        }
    }
    for dashboard in &all {
        let titles: BTreeSet<&str> = dashboard.panels().map(|panel| panel.title).collect();
        assert_eq!(titles.len(), dashboard.panels().count(), "{} has two panels of one title", dashboard.title);
    }
}

#[test]
fn every_metric_is_shown_or_alerted_on() {
    let all = dashboards::all();
    let rules = Rules::read().expect("readable");
    let expressions = panels(&all).flat_map(|(_, panel)| &panel.queries).map(|query| query.expression.to_owned());
    let mut asked = BTreeSet::new();
    for expression in expressions.chain(rules.alerts().map(|alert| alert.expr.clone())) {
        asked.extend(query::names(&expression).selectors.into_iter().filter_map(|s| Some(family(&s.metric)?.0.name)));
    }
    let unseen: Vec<&str> = families().map(|family| family.name).filter(|name| !asked.contains(name)).collect();
    assert!(unseen.is_empty(), "no panel and no alert has {unseen:?}");
}

#[test]
fn grafanas_files_are_what_the_definitions_say() {
    let folder = project(dashboards::FOLDER);
    let mut expected = BTreeSet::new();
    for dashboard in dashboards::all() {
        let path = folder.join(format!("{}.json", dashboard.name));
        let text = format!("{:#}\n", dashboard.json());
        if std::env::var_os("WEFT_WRITE_GENERATED").is_some() {
            fs::write(&path, &text).expect("the file can be written");
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "{} is not what the definitions say: run `make docs`", path.display());
        expected.insert(path);
    }
    let found: BTreeSet<_> =
        fs::read_dir(&folder).expect("there").map(|entry| entry.expect("readable").path()).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_alert_names_what_is_measured_and_says_what_it_means() {
    let rules = Rules::read().expect("readable");
    let mut names = BTreeSet::new();
    for alert in rules.alerts() {
        let name = &alert.alert;
        assert!(names.insert(name), "{name} is there twice");
        let annotation = |key: &str| alert.annotations.get(key).map_or("", String::as_str);
        let (summary, description) = (annotation("summary"), annotation("description"));
        let url = annotation("runbook_url");
        assert!(!summary.is_empty() && !summary.ends_with('.'), "{name} has no summary");
        assert!(description.ends_with('.'), "{name} has no description");
        let severity = alert.labels.get("severity").map_or("", String::as_str);
        assert!(["critical", "warning", "info"].contains(&severity), "{name} has no severity");
        check_query(&alert.expr, &[summary, description, url]).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn what_nobody_measures_is_refused() {
    for (query, text, why) in [
        ("weft_router_frame_total", "", "nobody measures"),
        ("rate(weft_router_frames[5m])", "", "nobody measures"),
        ("rate(weft_dns_query_duration_seconds[5m])", "", "nobody measures"),
        ("rate(weft_router_mtu_bytes[5m])", "", "is a gauge"),
        ("weft_router_frames_total", "", "is a counter"),
        ("weft_router_peers{status=\"connected\"}", "", "no label status"),
        ("weft_router_peers{state=\"conected\"}", "", "the value conected"),
        ("rate(weft_router_drops_total{reason=~\"oversized|no_sesion\"}[5m])", "", "the value no_sesion"),
        ("sum by (peer) (weft_router_mtu_bytes)", "", "the label peer"),
        ("sum by (host) (weft_router_peers)", "{{state}}", "no label state"),
        ("1 + 1", "", "no metric"),
    ] {
        let refused = check_query(query, &[text]).expect_err(query);
        assert!(refused.contains(why), "{query}: {refused}");
    }
    assert_eq!(check_query("sum by (host) (rate(weft_router_frames_total[5m]))", &["{{host}}"]), Ok(()));
}
