//! What the services' sources say: their reasons, and their sentences.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// A string in a source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Literal {
    /// With `…` for each placeholder.
    text: String,
    /// The function that it is in.
    function: String,
    /// The code before it and behind it, without space.
    before: String,
    after: String,
}

/// What was found in the sources of all services, tests left out.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Words that stand for problems.
    pub reasons: BTreeSet<String>,
    /// All strings, with `…` for each placeholder.
    pub sentences: BTreeSet<String>,
}

impl Sources {
    /// Reads them.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read() -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for folder in ["services", "libs"] {
            list(&crate::project(folder), &mut files)?;
        }
        let mut sources = Self::default();
        for file in files {
            let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
            sources.add(&text);
        }
        Ok(sources)
    }

    fn add(&mut self, source: &str) {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for literal in literals(code) {
            if literal.is_reason() {
                self.reasons.insert(literal.text.clone());
            }
            self.sentences.insert(literal.text);
        }
    }
}

impl Literal {
    /// Tells whether it stands where words for problems do: as a field `reason`, as what a function `reason` or `word`
    /// returns, or together with the problem's sentence.
    fn is_reason(&self) -> bool {
        let is_word = !self.text.is_empty() && self.text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let returned = self.before.ends_with("=>") && matches!(self.function.as_str(), "reason" | "word");
        // Of requests, fields are named with what is wrong about them.
        let with_sentence = self.before.ends_with('(')
            && !self.before.ends_with("invalid(")
            && (self.after.starts_with(",message") || self.after.starts_with(",format!"));
        let added = self.before.ends_with("add(") && self.after.starts_with(',');
        is_word && (self.before.ends_with("reason:") || returned || with_sentence || added)
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !matches!(name, "tests" | "examples" | "target") {
            list(&path, files)?;
        } else if name.ends_with(".rs") && !matches!(name, "tests.rs" | "golden.rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Code around a literal that is kept, in characters.
const AROUND: usize = 12;

/// Finds the strings in a source, without those in comments.
fn literals(source: &str) -> Vec<Literal> {
    let mut found: Vec<Literal> = Vec::new();
    let mut function = String::new();
    let mut before = String::new();
    let mut rest = source;
    let push = |found: &mut Vec<Literal>, before: &mut String, code: &str| {
        if let Some(last) = found.last_mut().filter(|last| last.after.len() < AROUND) {
            last.after.extend(code.chars().filter(|c| !c.is_whitespace()));
        }
        before.extend(code.chars().filter(|c| !c.is_whitespace()));
    };
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
            continue;
        }
        if let Some(name) = rest.strip_prefix("fn ") {
            function = name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        }
        if first == '"' {
            let (text, behind) = quoted(&rest[1..]);
            let tail = before.len().saturating_sub(AROUND);
            let tail = before.char_indices().map(|(at, _)| at).find(|at| *at >= tail).unwrap_or_default();
            let literal = Literal {
                text: with_gaps(&text),
                function: function.clone(),
                before: before.split_off(tail),
                after: String::new(),
            };
            push(&mut found, &mut before, "\"");
            found.push(literal);
            before.clear();
            rest = behind;
            continue;
        }
        let length = character_literal(rest).unwrap_or(first.len_utf8());
        push(&mut found, &mut before, &rest[..length]);
        rest = &rest[length..];
    }
    found
}

/// Returns the length of a character literal, which may be a quotation mark; lifetimes are none.
fn character_literal(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let length = match inside.strip_prefix('\\') {
        Some(escaped) => 1 + escaped.find('\'').filter(|end| *end > 0).or(escaped.starts_with('\'').then_some(1))?,
        None => inside.chars().next()?.len_utf8(),
    };
    inside[length..].starts_with('\'').then_some(length + 2)
}

/// Reads up to the closing quotation mark. A line break that is escaped goes, with the space that follows.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((at, '\n')) => {
                    let rest = text[at..].trim_start();
                    let (more, behind) = quoted(rest);
                    return (value + &more, behind);
                }
                Some((_, escaped)) => value.push(escaped),
                None => break,
            },
            c => value.push(c),
        }
    }
    (value, "")
}

/// Puts `…` for each placeholder, and for several in a row.
fn with_gaps(text: &str) -> String {
    let mut result = String::new();
    let mut depth = 0_u32;
    for c in text.chars() {
        match c {
            '{' => {
                if depth == 0 && !result.ends_with('…') {
                    result.push('…');
                }
                depth += 1;
            }
            '}' => depth = depth.saturating_sub(1),
            c if depth == 0 => result.push(c),
            _ => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_and_sentences_are_found() {
        let mut sources = Sources::default();
        sources.add(
            r#"
            // reason: "in_a_comment"
            fn word(self) -> &'static str { match self { Self::A => "returned", B('"') => "too" } }
            fn other() {
                let x = Problem { reason: "field".into(), message: format!("{} is {x:?}, \
                        so wait", a) };
                found.push(("tupled", message)); add(
                    "added",
                    "Text.".into(),
                );
                Label::new("state", "text"); Self::A => "not_returned",
            }
            #[cfg(test)]
            mod tests { reason: "of_a_test" }
            "#,
        );
        let reasons: Vec<&str> = sources.reasons.iter().map(String::as_str).collect();
        assert_eq!(reasons, ["added", "field", "returned", "too", "tupled"]);
        assert!(sources.sentences.contains("… is …, so wait"), "{:?}", sources.sentences);
    }
}
