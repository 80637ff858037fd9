//! Which metrics and labels a query in PromQL names. Whether it is valid is Prometheus' matter.

/// What a query names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Metrics, in order.
    pub selectors: Vec<Selector>,
    /// Labels that results are grouped by, or matched on.
    pub grouped: Vec<String>,
}

/// A metric with what is asked of its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The metric.
    pub metric: String,
    /// Labels in the braces behind it, with the values that are asked for.
    pub labels: Vec<(String, String)>,
    /// The function around it, if any.
    pub function: String,
}

/// Words that stand before labels in parentheses.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Words that are no metrics and stand without a parenthesis.
const OPERATORS: [&str; 6] = ["and", "or", "unless", "offset", "bool", "inf"];

/// Reads a query.
#[must_use]
pub fn names(query: &str) -> Names {
    let mut names = Names::default();
    let mut functions: Vec<String> = Vec::new();
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_alphabetic() || first == '_' {
            let (word, after) = split_word(rest);
            rest = after.trim_start();
            if let Some(inside) = rest.strip_prefix('(') {
                let (inside, behind) = if GROUPING.contains(&word) { until(inside, ')') } else { ("", inside) };
                names.grouped.extend(inside.split(',').map(|label| label.trim().to_owned()).filter(|l| !l.is_empty()));
                if !GROUPING.contains(&word) {
                    functions.push(word.to_owned());
                }
                rest = behind;
            } else if !OPERATORS.contains(&word) && !GROUPING.contains(&word) && !is_aggregation(word) {
                let (labels, after) = labels(rest);
                rest = after;
                let function = functions.last().cloned().unwrap_or_default();
                names.selectors.push(Selector { metric: word.to_owned(), labels, function });
            }
            continue;
        }
        match first {
            '(' => functions.push(String::new()),
            ')' => drop(functions.pop()),
            '[' => {
                rest = until(&rest[1..], ']').1;
                continue;
            }
            '"' => {
                rest = until(&rest[1..], '"').1;
                continue;
            }
            c if c.is_ascii_digit() => {
                rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
                continue;
            }
            _ => {}
        }
        rest = &rest[first.len_utf8()..];
    }
    names
}

/// Aggregations may have their grouping between name and parenthesis.
fn is_aggregation(word: &str) -> bool {
    matches!(word, "sum" | "min" | "max" | "avg" | "count" | "topk" | "bottomk" | "group" | "quantile" | "stddev")
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    text.split_at(end)
}

fn until(text: &str, end: char) -> (&str, &str) {
    text.split_once(end).unwrap_or((text, ""))
}

/// Reads labels in braces, if there are any.
fn labels(text: &str) -> (Vec<(String, String)>, &str) {
    let Some(mut rest) = text.strip_prefix('{') else { return (Vec::new(), text) };
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ', '\n']);
        if rest.is_empty() || rest.starts_with('}') {
            return (labels, rest.strip_prefix('}').unwrap_or(rest));
        }
        let (label, after) = split_word(rest);
        let (_, value) = until(after, '"');
        let (value, after) = until(value, '"');
        labels.push((label.to_owned(), value.to_owned()));
        rest = after;
    }
}

/// Returns the labels that a text for people names: `{{host}}` of a legend, `{{ $labels.host }}` of an annotation.
#[must_use]
pub fn placeholders(text: &str) -> Vec<String> {
    let inside = text.split("{{").skip(1).map(|part| until(part, '}').0.trim());
    let label = |word: &str| {
        let word = word.split('|').next().unwrap_or_default().trim();
        let word = word.strip_prefix("$labels.").unwrap_or(word);
        (!word.starts_with('$')).then(|| word.to_owned())
    };
    inside.filter_map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_labels_and_functions_are_found() {
        let query = r#"histogram_quantile(0.9, sum by (host, le) (rate(a_bucket{x="1", y=~"a|b"}[5m]))) > 0.25
            and on (host) count(up{job="weft"}) > 1 or max(b offset 1d) > 2e3"#;
        let names = names(query);
        let found: Vec<(&str, &str)> =
            names.selectors.iter().map(|s| (s.metric.as_str(), s.function.as_str())).collect();
        assert_eq!(found, [("a_bucket", "rate"), ("up", "count"), ("b", "max")]);
        assert_eq!(names.selectors[0].labels, [("x".into(), "1".into()), ("y".into(), "a|b".into())]);
        assert_eq!(names.grouped, ["host", "le", "host"]);
    }

    #[test]
    fn labels_in_texts_are_found() {
        assert_eq!(placeholders("{{host}} → {{peer}}"), ["host", "peer"]);
        assert_eq!(placeholders("{{ $labels.host }}: {{ $value | humanize }}"), ["host"]);
    }
}
