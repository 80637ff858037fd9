//! Every alert and every reason leads to an entry of the runbook, which has the words that weft says.

use weft_monitoring::{rules::Rules, runbook::Runbook, sources::Sources};

/// Where alerts lead to.
const PAGE: &str = "https://github.com/weft-net/weft/blob/main/docs/operations.md#";

/// Reasons whose sentence is somebody else's.
const WITHOUT_SENTENCE: [(&str, &str); 5] = [
    ("host_network", "the kernel's error"),
    ("connection_lost", "the kernel's error"),
    ("engine_away", "the error of the engine's socket"),
    ("refused", "the service's own"),
    ("duplicate_connection", "there is none"),
];

#[test]
fn every_alert_leads_to_its_entry() {
    let (rules, runbook) = (Rules::read().expect("readable"), Runbook::read().expect("readable"));
    for alert in rules.alerts() {
        let (name, url) = (&alert.alert, alert.annotations.get("runbook_url").map_or("", String::as_str));
        let anchor = url.strip_prefix(PAGE).unwrap_or_else(|| panic!("{name} leads to {url:?}"));
        let of_reason = anchor == "{{ $labels.reason }}";
        let entry = runbook.alerts.get(anchor);
        assert!(of_reason || entry.is_some_and(|entry| !entry.text.is_empty()), "{name} leads to no entry");
        assert!(of_reason || anchor == name.to_lowercase(), "{name} leads to another alert's entry");
    }
    for anchor in runbook.alerts.keys() {
        assert!(rules.alerts().any(|alert| alert.alert.to_lowercase() == *anchor), "no alert leads to {anchor}");
    }
}

#[test]
fn every_reason_has_an_entry_and_every_entry_a_reason() {
    let (sources, runbook) = (Sources::read().expect("readable"), Runbook::read().expect("readable"));
    assert!(sources.reasons.len() > 50, "the sources are read wrongly: {:?}", sources.reasons);
    let missing: Vec<_> = sources.reasons.iter().filter(|reason| !runbook.reasons.contains_key(*reason)).collect();
    assert!(missing.is_empty(), "docs/operations.md, Reasons, lacks {missing:?}");
    let unknown: Vec<_> = runbook.reasons.keys().filter(|reason| !sources.reasons.contains(*reason)).collect();
    assert!(unknown.is_empty(), "docs/operations.md, Reasons, has {unknown:?}, which no service says");
}

#[test]
fn entries_have_the_sentences_that_weft_says() {
    let (sources, runbook) = (Sources::read().expect("readable"), Runbook::read().expect("readable"));
    let mut unsaid = Vec::new();
    for (reason, entry) in &runbook.reasons {
        let foreign = WITHOUT_SENTENCE.iter().any(|(word, _)| word == reason);
        assert_eq!(foreign, entry.sentences.is_empty(), "{reason} should have the sentence that weft says");
        let said = |sentence: &&String| sources.sentences.iter().any(|said| said.contains(*sentence));
        unsaid.extend(entry.sentences.iter().filter(|sentence| !said(sentence)).map(|sentence| (reason, sentence)));
    }
    assert!(unsaid.is_empty(), "weft does not say {unsaid:#?}");
}
