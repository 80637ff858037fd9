//! Which of the engine's calls the proxy has to understand.

use http::Method;

/// A call of the Docker API, as far as the proxy cares.
///
/// Containers are named as the client named them: id, start of an id, or name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `POST /containers/create`.
    Create {
        /// The query's `name`.
        name: Option<String>,
    },
    /// `POST /containers/{id}/start`.
    Start {
        /// The container.
        container: String,
    },
    /// `POST /containers/{id}/restart`.
    Restart {
        /// The container.
        container: String,
    },
    /// What ends a container's process, holds it up, or removes it: `POST /containers/{id}/stop`, `/kill`, `/pause`, and
    /// `DELETE /containers/{id}`.
    Control {
        /// The container.
        container: String,
    },
    /// `POST /containers/{id}/exec`, which prepares a process beside the container's own.
    Exec {
        /// The container.
        container: String,
    },
    /// `GET /containers/{id}/json`.
    Inspect {
        /// The container.
        container: String,
    },
    /// `GET /containers/json`.
    List,
    /// `GET /containers/{id}/top`.
    Top,
    /// `GET /system/df`.
    DiskUsage,
    /// `POST /commit`.
    Commit {
        /// The query's `container`.
        container: String,
    },
    /// Everything else: passed through as it is.
    Other,
}

/// Says which call a request is; what is odd in any way is [`Call::Other`].
#[must_use]
pub fn classify(method: &Method, path_and_query: &str) -> Call {
    parse(method, path_and_query).unwrap_or(Call::Other)
}

fn parse(method: &Method, path_and_query: &str) -> Option<Call> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').take(5).collect();
    let segments = match segments.as_slice() {
        [version, rest @ ..] if is_version(version) => rest,
        rest => rest,
    };
    if *method == Method::GET {
        return match segments {
            ["containers", "json"] => Some(Call::List),
            ["system", "df"] => Some(Call::DiskUsage),
            ["containers", id, "json"] => Some(Call::Inspect { container: container(id)? }),
            ["containers", id, "top"] => container(id).map(|_| Call::Top),
            _ => None,
        };
    }
    if *method == Method::DELETE {
        return match segments {
            ["containers", id] => Some(Call::Control { container: container(id)? }),
            _ => None,
        };
    }
    if *method == Method::POST {
        return match segments {
            ["containers", "create"] => Some(Call::Create { name: parameter(query, "name").filter(|n| !n.is_empty()) }),
            ["containers", id, "start"] => Some(Call::Start { container: container(id)? }),
            ["containers", id, "stop" | "kill" | "pause"] => Some(Call::Control { container: container(id)? }),
            ["containers", id, "exec"] => Some(Call::Exec { container: container(id)? }),
            ["containers", id, "restart"] => Some(Call::Restart { container: container(id)? }),
            ["commit"] => Some(Call::Commit { container: acceptable(parameter(query, "container")?)? }),
            _ => None,
        };
    }
    None
}

/// Tells whether a path segment is a version prefix as in `v1.41`.
fn is_version(segment: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = segment.strip_prefix('v').and_then(|rest| rest.split_once('.'));
    parts.is_some_and(|(major, minor)| digits(major) && digits(minor))
}

fn container(segment: &str) -> Option<String> {
    acceptable(percent_decode(segment, false)?)
}

/// Passes on what the engine takes for a container: no slash (but one at the start, as old clients write names).
fn acceptable(container: String) -> Option<String> {
    let name = container.strip_prefix('/').unwrap_or(&container);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let fits = !name.is_empty() && name.len() <= 255 && name.chars().all(allowed) && name != "." && name != "..";
    fits.then(|| name.to_owned())
}

/// Returns the first value of a query parameter, decoded.
fn parameter(query: &str, key: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(name, true)? == key).then(|| percent_decode(value, true))?
    })
}

/// Decodes `%XX`, and `+` as a space in queries; none if it is not valid or not UTF-8.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
                u8::try_from(value).ok()?
            }
            b'+' if plus_is_space => b' ',
            _ => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(container: &str) -> String {
        container.to_owned()
    }

    #[test]
    fn calls_that_matter_are_found_with_and_without_a_version() {
        let cases = [
            (Method::POST, "/containers/create", Call::Create { name: None }),
            (Method::POST, "/containers/create?name=", Call::Create { name: None }),
            (Method::POST, "/containers/create?platform=&name=a%2Db", Call::Create { name: Some(at("a-b")) }),
            (Method::POST, "/containers/web/start", Call::Start { container: at("web") }),
            (Method::POST, "/containers/web/start?detachKeys=", Call::Start { container: at("web") }),
            (Method::POST, "/containers/a%2eb/restart?t=1", Call::Restart { container: at("a.b") }),
            (Method::POST, "/containers/%2Fweb/start", Call::Start { container: at("web") }),
            (Method::POST, "/containers/web/stop?t=1", Call::Control { container: at("web") }),
            (Method::POST, "/containers/web/kill", Call::Control { container: at("web") }),
            (Method::POST, "/containers/web/pause", Call::Control { container: at("web") }),
            (Method::DELETE, "/containers/web?force=1&v=1", Call::Control { container: at("web") }),
            (Method::POST, "/containers/web/exec", Call::Exec { container: at("web") }),
            (Method::GET, "/containers/web/json?size=1", Call::Inspect { container: at("web") }),
            (Method::GET, "/containers/json", Call::List),
            (Method::GET, "/system/df?type=container", Call::DiskUsage),
            (Method::GET, "/containers/web/top?ps_args=-ef", Call::Top),
            (Method::GET, "/containers/json?all=1&filters=%7B%7D", Call::List),
            (Method::POST, "/commit?author=&container=web&repo=x", Call::Commit { container: at("web") }),
        ];
        for (method, path, call) in cases {
            assert_eq!(classify(&method, path), call, "{path}");
            assert_eq!(classify(&method, &format!("/v1.41{path}")), call, "/v1.41{path}");
        }
    }

    #[test]
    fn everything_else_passes() {
        let cases = [
            (Method::GET, "/containers/create"),
            (Method::HEAD, "/containers/json"),
            (Method::POST, "/containers/json"),
            (Method::GET, "/containers//json"),
            (Method::POST, "/containers/web/start/"),
            (Method::POST, "/containers/web/start/x/y/z"),
            (Method::POST, "//containers/web/start"),
            (Method::POST, "containers/web/start"),
            (Method::POST, "/v1/containers/web/start"),
            (Method::POST, "/v1.x/containers/web/start"),
            (Method::POST, "/v1.41/v1.41/containers/web/start"),
            (Method::POST, "/containers/%2e%2e/start"),
            (Method::POST, "/containers/a%2fb/start"),
            (Method::POST, "/containers/a%zzb/start"),
            (Method::POST, "/containers/a%ff/start"),
            (Method::POST, "/containers/a%/start"),
            (Method::POST, "/commit"),
            (Method::POST, "/commit?container="),
            (Method::POST, "/containers/web/exec/x"),
            (Method::POST, "/exec/web/start"),
            (Method::POST, "/containers/web/wait"),
            (Method::DELETE, "/containers/"),
            (Method::DELETE, "/images/web"),
            (Method::GET, "/images/web/json"),
            (Method::POST, "*"),
            (Method::POST, ""),
        ];
        for (method, path) in cases {
            assert_eq!(classify(&method, path), Call::Other, "{method} {path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in ".*") {
            let _ = classify(&Method::GET, &path);
            let _ = classify(&Method::POST, &format!("/containers/{path}/start?{path}"));
            let _ = classify(&Method::POST, &format!("/commit?container={path}"));
        }
    }
}
