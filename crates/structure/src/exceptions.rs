//! The list of what is allowed although it breaks a rule. It may only shrink: what is not in it fails, what is in it
//! may not grow, and a line that is no longer needed fails as well.
//!
//! A line is `what where [number]  # reason`, the reason being optional.

use std::collections::BTreeMap;

/// What breaks rules: for `what where` the number that is too high, if there is one, and the message.
pub(crate) type Findings = BTreeMap<String, Finding>;

/// One thing that breaks a rule.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) number: Option<usize>,
    pub(crate) message: String,
}

/// A line of the list.
struct Exception<'a> {
    line: usize,
    number: Option<usize>,
    reason: Option<&'a str>,
}

/// What has to be mended: the findings that the list does not have, and the lines of the list without a finding.
pub(crate) fn compare(findings: &Findings, list: &str, name: &str) -> Vec<String> {
    let listed = read(list);
    let mut problems = Vec::new();
    for (key, finding) in findings {
        match listed.get(key.as_str()) {
            None => problems.push(finding.message.clone()),
            Some(exception) if finding.number > exception.number => problems.push(format!(
                "{} It has grown: {name} allows {}.",
                finding.message,
                exception.number.unwrap_or_default()
            )),
            Some(_) => {}
        }
    }
    for (key, exception) in &listed {
        if !findings.contains_key(*key) {
            problems.push(format!(
                "{name}:{}: \"{key}\" is true no longer: remove the line.",
                exception.line
            ));
        }
    }
    problems
}

/// The list as it has to be for these findings, with the reasons and the comments at the beginning of an old one.
pub(crate) fn write(findings: &Findings, old: &str) -> String {
    let listed = read(old);
    let mut text = String::new();
    for line in old.lines().take_while(|line| line.starts_with('#')) {
        text.push_str(line);
        text.push('\n');
    }
    let mut what = "";
    for (key, finding) in findings {
        let now = key.split(' ').next().unwrap_or_default();
        if now != what {
            what = now;
            text.push('\n');
        }
        text.push_str(key);
        if let Some(number) = finding.number {
            text.push_str(&format!(" {number}"));
        }
        if let Some(reason) = listed.get(key.as_str()).and_then(|old| old.reason) {
            text.push_str(&format!("  # {reason}"));
        }
        text.push('\n');
    }
    text
}

fn read(list: &str) -> BTreeMap<&str, Exception<'_>> {
    let mut found = BTreeMap::new();
    for (at, line) in list.lines().enumerate() {
        let (line, reason) = match line.split_once('#') {
            Some((line, reason)) => (line, Some(reason.trim())),
            None => (line, None),
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let last = line.rsplit_once(' ');
        let numbered = last.and_then(|(key, number)| Some((key, number.parse().ok()?)));
        let (key, number) = match numbered {
            Some((key, number)) => (key, Some(number)),
            None => (line, None),
        };
        let line = at + 1;
        found.insert(
            key,
            Exception {
                line,
                number,
                reason,
            },
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(of: &[(&str, Option<usize>)]) -> Findings {
        let finding = |number: &Option<usize>| Finding {
            number: *number,
            message: "found.".to_owned(),
        };
        of.iter()
            .map(|(key, number)| ((*key).to_owned(), finding(number)))
            .collect()
    }

    #[test]
    fn the_list_can_only_shrink() {
        let found = findings(&[("lines a.rs", Some(600)), ("circle b.rs", None)]);
        let list = "# Comment\nlines a.rs 600  # a table\n\ncircle b.rs\n";
        assert_eq!(compare(&found, list, "list"), [] as [&str; 0]);
        assert_eq!(
            compare(&found, "lines a.rs 599\ncircle b.rs", "list"),
            ["found. It has grown: list allows 599."]
        );
        assert_eq!(compare(&found, "lines a.rs 601", "list"), ["found."]);
        assert_eq!(
            compare(&found, "circle b.rs\nlines a.rs 700\ncircle c.rs", "list"),
            ["list:3: \"circle c.rs\" is true no longer: remove the line."]
        );
    }

    #[test]
    fn the_list_is_written_with_its_reasons() {
        let found = findings(&[("lines a.rs", Some(600)), ("circle b.rs", None)]);
        let old = "# Comment\n\nlines a.rs 700  # a table\nlines gone.rs 900\n";
        let new = write(&found, old);
        assert_eq!(
            new,
            "# Comment\n\ncircle b.rs\n\nlines a.rs 600  # a table\n"
        );
        assert!(compare(&found, &new, "list").is_empty());
    }
}
