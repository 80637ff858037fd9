//! The engine's events, one JSON object on a line.

use weft_types::ContainerId;

use crate::{
    health,
    json::{self, Object},
};

/// Something that happened to a container, or nothing that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its process was started (the pid may not be there yet).
    Started(ContainerId),
    /// Its process ended.
    Died(ContainerId),
    /// It was removed.
    Destroyed(ContainerId),
    /// It has another name, without the slash.
    Renamed(ContainerId, String),
    /// Its health check says something else; true: it is unhealthy.
    HealthChanged(ContainerId, bool),
    /// It joined or left a network: its aliases may have changed.
    NetworkChanged(ContainerId),
    /// Anything else, and what cannot be understood.
    Other,
}

/// Reads one line; what cannot be understood is [`Event::Other`].
#[must_use]
pub fn parse(line: &[u8]) -> Event {
    json::parse_object(line).ok().and_then(|event| understand(&event)).unwrap_or(Event::Other)
}

fn understand(event: &Object) -> Option<Event> {
    let actor = json::object(event, "Actor")?;
    let attribute = |key: &str| json::object(actor, "Attributes")?.get(key)?.as_str();
    let action = json::text(event, "Action")?;
    match json::text(event, "Type")? {
        "container" => {}
        "network" if matches!(action, "connect" | "disconnect") => {
            return Some(Event::NetworkChanged(attribute("container")?.parse().ok()?));
        }
        _ => return None,
    }
    let container = json::text(actor, "ID")?.parse().ok()?;
    match action {
        "start" => Some(Event::Started(container)),
        "die" => Some(Event::Died(container)),
        "destroy" => Some(Event::Destroyed(container)),
        "rename" => Some(Event::Renamed(container, attribute("name")?.trim_start_matches('/').to_owned())),
        _ => {
            let status = action.strip_prefix("health_status:")?;
            Some(Event::HealthChanged(container, health::is_unhealthy(status)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_of_containers_are_understood() {
        let id: ContainerId = "4f66".parse().expect("valid");
        let event = |action: &str| {
            format!(
                r#"{{"status":"x","Type":"container","Action":"{action}","Actor":{{"ID":"4f66","Attributes":{{"name":"new","oldName":"/old"}}}},"time":1}}"#
            )
        };
        let cases = [
            ("start", Event::Started(id.clone())),
            ("die", Event::Died(id.clone())),
            ("destroy", Event::Destroyed(id.clone())),
            ("rename", Event::Renamed(id.clone(), "new".to_owned())),
            ("health_status: unhealthy", Event::HealthChanged(id.clone(), true)),
            ("health_status: healthy", Event::HealthChanged(id.clone(), false)),
            ("health_status:starting", Event::HealthChanged(id.clone(), false)),
            ("exec_start: start", Event::Other),
            ("restart", Event::Other),
        ];
        for (action, expected) in cases {
            assert_eq!(parse(event(action).as_bytes()), expected, "{action}");
        }
        let joined = br#"{"Type":"network","Action":"connect","Actor":{"ID":"n","Attributes":{"container":"4f66"}}}"#;
        assert_eq!(parse(joined), Event::NetworkChanged(id));
    }

    #[test]
    fn everything_else_is_other() {
        for line in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"Type":"container","Action":"start"}"#,
            r#"{"Type":"container","Action":"start","Actor":{"ID":""}}"#,
            r#"{"Type":"container","Action":"start","Actor":{"ID":"../x"}}"#,
            r#"{"Type":"image","Action":"start","Actor":{"ID":"4f66"}}"#,
            r#"{"Type":"container","Action":7,"Actor":{"ID":"4f66"}}"#,
            r#"{"Type":"container","Action":"rename","Actor":{"ID":"4f66"}}"#,
        ] {
            assert_eq!(parse(line.as_bytes()), Event::Other, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }
    }
}
