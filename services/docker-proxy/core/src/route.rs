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
    /// `GET /containers/{id}/json`.
    Inspect {
        /// The container.
        container: String,
    },
    /// `GET /containers/json`.
    List,
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
            ["containers", id, "json"] => Some(Call::Inspect { container: container(id)? }),
            _ => None,
        };
    }
    if *method == Method::POST {
        return match segments {
            ["containers", "create"] => Some(Call::Create { name: parameter(query, "name").filter(|n| !n.is_empty()) }),
            ["containers", id, "start"] => Some(Call::Start { container: container(id)? }),
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
fn percent_decode(text: &str, plus_is_space: bool) -> Option<String> {
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
