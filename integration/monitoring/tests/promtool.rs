//! Prometheus' own tool accepts the configuration, every query, and the alerts' tests; each alert has one.

use std::{fs, process::Command};

use serde_json::json;
use weft_monitoring::{dashboards, program, project, rules::Rules};

fn promtool(arguments: &[&str]) -> String {
    let program = program("promtool").expect("Prometheus is there");
    let folder = project("deploy/prometheus");
    let output = Command::new(program).args(arguments).current_dir(folder).output().expect("promtool runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
    said
}

#[test]
fn the_configuration_and_the_rules_are_valid() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "weft.rules.yml"]);
}

#[test]
fn every_query_of_every_panel_is_valid() {
    let mut rules = Vec::new();
    for panel in dashboards::all().iter().flat_map(|dashboard| dashboard.panels()) {
        for query in &panel.queries {
            let expression = query.expression.replace("$__rate_interval", "1m").replace("$host", ".*");
            rules.push(json!({ "record": format!("query_{}", rules.len()), "expr": expression }));
        }
    }
    let path = std::env::temp_dir().join(format!("weft-queries-{}.yml", std::process::id()));
    fs::write(&path, json!({ "groups": [{ "name": "queries", "rules": rules }] }).to_string()).expect("written");
    promtool(&["check", "rules", &path.to_string_lossy()]);
    fs::remove_file(path).expect("removed");
}

#[test]
fn every_alert_fires_and_clears_as_its_test_says() {
    let files = fs::read_dir(project("deploy/prometheus/tests")).expect("there");
    let mut files: Vec<_> = files.map(|file| file.expect("readable").path()).collect();
    files.sort();
    let mut arguments = vec!["test".to_owned(), "rules".to_owned()];
    arguments.extend(files.iter().map(|file| file.to_string_lossy().into_owned()));
    promtool(&arguments.iter().map(String::as_str).collect::<Vec<_>>());

    let tests: String = files.iter().map(|file| fs::read_to_string(file).expect("readable")).collect();
    for alert in Rules::read().expect("readable").alerts() {
        let fires = format!("alertname=\"{}\"", alert.alert);
        let test = tests.split("\n  - name: ").find(|test| test.contains(&fires));
        let test = test.unwrap_or_else(|| panic!("{} has no test", alert.alert));
        let (before, after) = test.split_once(&fires).expect("it is there");
        let silent = "exp_samples: []";
        assert!(before.contains(silent) && after.contains(silent), "{}: does it wait, and clear?", alert.alert);
    }
}
