use std::fmt::Write;

use weft_metrics::{Family, check, shared};

use crate::tests::compare;

const INTRODUCTION: &str = "\
# Metrics

Made from the services' own definitions by `make docs`. One address of each host, `http://127.0.0.1:6782/metrics` unless
`WEFT_METRICS_LISTEN` says otherwise, has the metrics of all four services; [operations.md](operations.md) says how to scrape
it from elsewhere.

Counters begin at 0 when their service starts. The values of labels are bounded: they are fixed words, or names of peers, of
which at most 256 are shown. No label has the name of a container or of anything that somebody asked for.
";

#[test]
fn metrics_are_documented_as_defined() {
    let services: [(&str, &[Family]); 5] = [
        ("Every service", shared::FAMILIES),
        ("router", weft_router::metrics::FAMILIES),
        ("ipam", weft_ipam::metrics::FAMILIES),
        ("dns", weft_dns::metrics::FAMILIES),
        ("docker-proxy", weft_docker_proxy::metrics::FAMILIES),
    ];
    check(services.iter().flat_map(|(_, families)| *families)).expect("all definitions keep to the conventions");
    let mut text = INTRODUCTION.to_owned();
    for (service, families) in services {
        let prefix = format!("weft_{}_", service.replace('-', "_"));
        let own = |family: &&Family| service != "Every service" && !family.name.starts_with(&prefix);
        assert_eq!(families.iter().find(own), None, "metrics of {service} begin with {prefix}");
        describe(&mut text, service, families).expect("a string can be written to");
    }
    compare("metrics.md", &text);
}

fn describe(text: &mut String, service: &str, families: &[Family]) -> std::fmt::Result {
    writeln!(text, "\n## {service}\n\n| metric | kind | unit | labels | meaning |\n| --- | --- | --- | --- | --- |")?;
    for family in families {
        let label = |label: &weft_metrics::Label| format!("`{}`: {}", label.name, label.values);
        let labels = family.labels.iter().map(label).collect::<Vec<_>>().join("; ");
        let when = if family.is_always_there() { String::new() } else { format!(" Present {}.", family.when) };
        let Family { name, kind, unit, help, .. } = family;
        writeln!(text, "| `{name}` | {} | {} | {labels} | {help}{when} |", kind.name(), unit.name())?;
    }
    Ok(())
}
