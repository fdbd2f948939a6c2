//! What documents name exists: their links, the source files and the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Source files, by the ends of their paths: a document may leave out folders.
pub(crate) struct Sources<'a> {
    /// The text of each file.
    pub(crate) texts: &'a BTreeMap<PathBuf, String>,
}

impl Sources<'_> {
    fn ending_with<'a>(&'a self, end: &'a str) -> impl Iterator<Item = &'a str> {
        let texts = self.texts.iter();
        texts.filter_map(move |(file, text)| file.ends_with(end).then_some(text.as_str()))
    }
}

/// A link that leads nowhere. `documents` has the text of every document.
pub(crate) fn broken_links(
    documents: &BTreeMap<PathBuf, String>,
    exists: impl Fn(&Path) -> bool,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (file, text) in documents {
        for (line, link) in links(text) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => normal(&file.parent().unwrap_or(Path::new("")).join(path)),
            };
            if !exists(&target) {
                problems.push(format!("{}:{line}: there is no {path}.", file.display()));
            } else if !anchor.is_empty()
                && let Some(text) = documents.get(&target)
                && !anchors(text).contains(anchor)
            {
                problems.push(format!(
                    "{}:{line}: {} has no heading #{anchor}.",
                    file.display(),
                    target.display()
                ));
            }
        }
    }
    problems
}

/// A file or a function that a document names and that is not there. `x.rs::f` names a function of a file, and `::f`
/// after it another one of the same file.
pub(crate) fn missing_names(
    documents: &BTreeMap<PathBuf, String>,
    sources: &Sources<'_>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (document, text) in documents {
        for (at, line) in text.lines().enumerate() {
            let mut file = "";
            for quoted in line.split('`').skip(1).step_by(2) {
                let (named, function) = quoted.split_once("::").unwrap_or((quoted, ""));
                if named.ends_with(".rs") && !named.contains([' ', '*']) {
                    file = named;
                } else if !named.is_empty() || function.is_empty() || file.is_empty() {
                    continue;
                }
                let place = format!("{}:{}", document.display(), at + 1);
                if sources.ending_with(file).next().is_none() {
                    problems.push(format!("{place}: there is no file {file}."));
                } else if !function.is_empty() && !is_word(function) {
                    continue;
                } else if !function.is_empty()
                    && !sources
                        .ending_with(file)
                        .any(|text| text.contains(&format!("fn {function}(")))
                {
                    problems.push(format!("{place}: {file} has no function {function}."));
                }
            }
        }
    }
    problems
}

fn is_word(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The links of a document that lead to files, with their lines. What stands in code is none.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for outside in line.split('`').step_by(2) {
            for rest in outside.split("](").skip(1) {
                if let Some((link, _)) = rest.split_once(')')
                    && !link.contains("://")
                    && !link.starts_with("mailto:")
                {
                    found.push((at + 1, link));
                }
            }
        }
    }
    found
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Without `..` and `.`.
fn normal(path: &Path) -> PathBuf {
    let mut found = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                found.pop();
            }
            std::path::Component::CurDir => {}
            part => found.push(part),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(of: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
        let owned = |(name, text): &(&str, &str)| (PathBuf::from(name), (*text).to_owned());
        of.iter().map(owned).collect()
    }

    #[test]
    fn links_lead_to_files_and_headings() {
        let documents = texts(&[
            (
                "README.md",
                "# One two\n[a](docs/a.md#how-it-s-done) [b](#one-two) [c](https://x.y/z)\n```\n[x](no.md)\n```\n`[y](no.md)`",
            ),
            (
                "docs/a.md",
                "## How it-s done\n[up](../README.md) [lost](b.md) [lost](../README.md#three)",
            ),
        ]);
        let found = broken_links(&documents, |file| documents.contains_key(file));
        assert_eq!(
            found,
            [
                "docs/a.md:2: there is no b.md.",
                "docs/a.md:2: README.md has no heading #three."
            ]
        );
    }

    #[test]
    fn files_and_functions_that_are_named_are_there() {
        let sources = texts(&[
            (
                "tests/sink/rules.rs",
                "#[test]\nfn a_rule() {}\nfn another() {}",
            ),
            ("src/b.rs", "fn f() {}"),
        ]);
        let sources = Sources { texts: &sources };
        let good = texts(&[(
            "a.md",
            "`rules.rs::a_rule`, `::another`, `sink/rules.rs`, `src/b.rs`, `Path::new`, `b.rs::Type`",
        )]);
        assert!(missing_names(&good, &sources).is_empty());
        let bad = texts(&[(
            "a.md",
            "`rules.rs::a_rule`, `::third`\n`inks/rules.rs`, `lost.rs::f`",
        )]);
        assert_eq!(
            missing_names(&bad, &sources),
            [
                "a.md:1: rules.rs has no function third.",
                "a.md:2: there is no file inks/rules.rs.",
                "a.md:2: there is no file lost.rs."
            ]
        );
    }
}
