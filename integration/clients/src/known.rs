//! What differs, and why it has to. Whatever else differs is a fault.

use regex::Regex;

use crate::compare::Difference;

/// Differences that have one reason.
#[derive(Debug)]
pub(crate) struct Known {
    /// What a user sees.
    pub(crate) what: &'static str,
    /// Why it is so.
    pub(crate) reason: &'static str,
    /// Which they are: patterns of the call, the place, what the engine said, and what came through weft.
    at: &'static [[&'static str; 4]],
}

/// All of them.
pub(crate) const KNOWN: &[Known] = &[
    Known {
        what: "A container whose program does not exist starts, and ends with 127 and a sentence on its stderr.",
        reason: "The engine alone refuses to start it. With weft the program is looked for when the network is there, by \
                 the process that waited for it.",
        at: &[
            ["without a program", "", "executable file not found", ""],
            ["no-such-program", "", "executable file not found", "weft-wait|127"],
            ["^docker rm failing", "", "", ""],
        ],
    },
    Known {
        what: "An image committed from an attached container has an empty `Entrypoint`, where it would have none.",
        reason: "Both mean the same. The engine fills in the container's own, which is the waiting program, if there is none.",
        at: &[["committed", "Entrypoint", "null", r"\[\]"], ["committed", "stdout", "", r#""Entrypoint\\?":\[\]"#]],
    },
    Known {
        what: "`ContainerConfig` of a committed image names the waiting program.",
        reason: "The engine fills it in by itself. Nothing uses it, and newer engines have dropped it.",
        at: &[
            ["committed", "ContainerConfig", "", r"\.dockerenv"],
            ["ContainerConfig", "stdout", "", r"\.dockerenv|weft\.internal|second"],
        ],
    },
    Known {
        what: "A container that asks for no host name has its own name, in weft's domain, and on other networks than the \
               default one that name is among its aliases.",
        reason: "Weft gives it the name under which others find it.",
        at: &[
            ["inspect", r"Config\.Domainname", "", "weft.internal"],
            ["inspect", r"Config\.Hostname", "ID", ""],
            ["network container:member", "stdout", "ID", "member"],
            ["inspect", r"Networks\..*\.(Aliases|DNSNames)", "", "only here: \"[a-z]+\"$"],
        ],
    },
    Known {
        what: "A container that was created without a `HostConfig` shows its `Runtime` before it starts.",
        reason: "Weft adds one, and the engine fills in what it lacks.",
        at: &[["inspect", r"HostConfig\.Runtime", "null", "runc"]],
    },
    Known {
        what: "A container on the network `none` has the interface `ethwe`.",
        reason: "That network is weft's to add to, as it was Weave Net's; `WEFT_CIDR=none` keeps a container off it.",
        at: &[["network none", "stdout", "^.lo", "ethwe"]],
    },
    Known {
        what: "With `--init` the first process of a container names the waiting program among its arguments.",
        reason: "The engine's init keeps the arguments it was started with. The process that it starts has its own.",
        at: &[["--init ", "stdout", "docker-init", r"docker-init -- [/.]+\.dockerenv"]],
    },
    Known {
        what: "What is no HTTP, and a create whose body is no JSON object, is refused with 400 in weft's words.",
        reason: "Weft passes on what it has understood, and nothing else.",
        at: &[
            ["^no HTTP", "", "", "not an HTTP"],
            ["^a create ", "", "", "body is not valid JSON|body must be a JSON object"],
        ],
    },
    Known {
        what: "A request whose length can be read in two ways is refused with 400.",
        reason: "The engine takes one of the two lengths. A request that two servers may read in two ways is never passed on.",
        at: &[["import_image_from_stream", "", "chunk|500", "ambiguous|400"], ["^a length ", "", "", "ambiguous"]],
    },
];

/// Returns the number of the reason for a difference; none if it is a fault.
pub(crate) fn reason(difference: &Difference) -> Option<usize> {
    let fits = |pattern: &str, text: &str| Regex::new(pattern).expect("it is valid").is_match(text);
    let matches = |[call, place, engine, weft]: &[&str; 4]| {
        fits(call, &difference.call)
            && fits(place, &difference.place)
            && fits(engine, &difference.engine)
            && fits(weft, &difference.weft)
    };
    KNOWN.iter().position(|known| known.at.iter().any(matches))
}
