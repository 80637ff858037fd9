//! Which host name a container gets whose user chose none.
//!
//! As Weave Net's: the container's name, or a label, after a substitution, in the zone of the containers' names. So
//! `hostname -f` in a container is a name by which the others reach it.

use regex_lite::Regex;

use crate::names;

/// Longest host name with its domain, in bytes: what the kernel takes (`__NEW_UTS_LEN`).
const LONGEST: usize = 64;

/// How a host name is made.
#[derive(Debug, Clone)]
pub struct HostnameRule {
    label: Option<String>,
    pattern: Regex,
    replacement: String,
}

/// What a host name was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) hostname: String,
    /// It is the container's name, unchanged.
    pub(crate) is_name: bool,
}

/// A rule that cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("\"{pattern}\" is no regular expression ({reason}): write one as RE2 has it, such as ^aws-[0-9]+-(.*)$")]
pub struct InvalidRule {
    pattern: String,
    reason: regex_lite::Error,
}

impl HostnameRule {
    /// Makes a rule: the value of `label`, or the container's name where there is none, has each match of `pattern` replaced
    /// by `replacement`, in which `$1` and `$name` stand for groups. What does not match stays as it is.
    ///
    /// # Errors
    /// [`InvalidRule`] if the pattern is no regular expression.
    pub fn new(label: Option<String>, pattern: &str, replacement: String) -> Result<Self, InvalidRule> {
        let invalid = |reason| InvalidRule { pattern: pattern.to_owned(), reason };
        Ok(Self { label, pattern: Regex::new(pattern).map_err(invalid)?, replacement })
    }

    /// Returns the label whose value comes before the container's name.
    pub(crate) fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Makes a host name; none if what comes out is empty, cannot be a name in DNS, or is longer than the kernel takes.
    pub(crate) fn make(&self, label: Option<&str>, name: Option<&str>, domain: &str) -> Option<Made> {
        let source = label.filter(|label| !label.is_empty()).or(name)?;
        let hostname = self.pattern.replace_all(source, self.replacement.as_str()).into_owned();
        let fits = hostname.len() + 1 + domain.len() <= LONGEST && names::is_name(&hostname, domain);
        fits.then(|| Made { is_name: name == Some(hostname.as_str()), hostname })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(pattern: &str, replacement: &str) -> HostnameRule {
        HostnameRule::new(None, pattern, replacement.to_owned()).expect("a regular expression")
    }

    fn made(rule: &HostnameRule, label: Option<&str>, name: Option<&str>) -> Option<(String, bool)> {
        rule.make(label, name, "weft.internal").map(|made| (made.hostname, made.is_name))
    }

    #[test]
    fn names_and_labels_are_substituted() {
        let plain = rule("(.*)", "$1");
        let cut = rule("^aws-[0-9]+-(.*)$", "my-app-$1");
        let at = |hostname: &str, is_name| Some((hostname.to_owned(), is_name));
        assert_eq!(made(&plain, None, Some("web")), at("web", true));
        assert_eq!(made(&plain, Some("store"), Some("web")), at("store", false));
        assert_eq!(made(&plain, Some(""), Some("web")), at("web", true));
        assert_eq!(made(&plain, Some("store"), None), at("store", false));
        assert_eq!(made(&plain, None, None), None);
        assert_eq!(made(&cut, None, Some("aws-12798186823-foo")), at("my-app-foo", false));
        assert_eq!(made(&cut, None, Some("foo")), at("foo", true));
        assert_eq!(made(&rule("o", "0"), None, Some("foo")), at("f00", false));
        assert_eq!(made(&rule("(.*)", ""), None, Some("web")), None);
    }

    #[test]
    fn what_is_no_host_name_is_left_to_the_engine() {
        let plain = rule("(.*)", "$1");
        let long = "a".repeat(LONGEST - ".weft.internal".len());
        assert_eq!(made(&plain, None, Some(&long)), Some((long.clone(), true)));
        for name in [&format!("{long}a"), "a..b", "a b", "caf\u{e9}", "-\0"] {
            assert_eq!(made(&plain, None, Some(name)), None, "{name}");
        }
        let error = HostnameRule::new(None, "(", String::new()).expect_err("no expression").to_string();
        assert!(error.starts_with("\"(\" is no regular expression ("), "{error}");
    }

    proptest! {
        #[test]
        fn nothing_panics(pattern in ".{0,20}", replacement in ".{0,20}", name in ".*") {
            if let Ok(rule) = HostnameRule::new(None, &pattern, replacement) {
                let _ = rule.make(None, Some(&name), "weft.internal");
            }
        }
    }
}
