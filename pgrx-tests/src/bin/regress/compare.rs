//! What the suite printed on one server beside what it printed on another and what PostgreSQL expects, without the lines
//! that tracking itself has to print.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use crate::suite::Suite;

/// What differs.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    /// How many files were compared.
    pub(crate) compared: usize,
    /// Lines that differ, by file.
    pub(crate) files: BTreeMap<String, usize>,
}

/// Compares every file that `suite` has printed with that of `plain`, and with those that PostgreSQL expects. Writes what
/// differs from all of them into `keep`.
pub(crate) fn all(suite: &Suite, plain: &Suite, keep: &Path) -> Differences {
    let _ = std::fs::remove_dir_all(keep);
    std::fs::create_dir_all(keep).expect("a folder for the differences");
    let mut differences = Differences::default();
    for name in suite.printed() {
        let result = without_tracking(&read(&suite.result(&name)));
        let nearest = suite
            .expected(&name)
            .into_iter()
            .chain([plain.result(&name)])
            .map(|other| difference(&without_tracking(&read(&other)), &result, keep))
            .min_by_key(|difference| changed_lines(difference))
            .filter(|difference| changed_lines(difference) > 0);
        differences.compared += 1;
        if let Some(nearest) = nearest {
            std::fs::write(keep.join(format!("{name}.diff")), &nearest).expect("a file for it");
            differences.files.insert(name, changed_lines(&nearest));
        }
    }
    for scratch in ["expected.out", "result.out"] {
        let _ = std::fs::remove_file(keep.join(scratch));
    }
    differences
}

fn read(file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text without the messages of tracking a new table, and without its triggers in what `\d` shows.
fn without_tracking(text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let ours = line.contains(" is tracked: every change goes")
            || line.ends_with("\" has no key")
            || line.starts_with("DETAIL:  All its changes go to one partition")
            || line.ends_with("[CDC0104]")
            || line.starts_with("Triggers firing always:")
            || line.starts_with("    _cdc AFTER")
            || line.starts_with("    _cdc_truncate AFTER");
        if !ours {
            let _ = writeln!(kept, "{line}");
        }
    }
    kept
}

/// What `diff` says.
fn difference(expected: &str, result: &str, folder: &Path) -> String {
    let (first, second) = (folder.join("expected.out"), folder.join("result.out"));
    std::fs::write(&first, expected).expect("a file to compare");
    std::fs::write(&second, result).expect("a file to compare");
    let output = Command::new("diff")
        .args(["--text", "--unified=1"])
        .args([&first, &second])
        .output()
        .expect("diff");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn changed_lines(difference: &str) -> usize {
    difference
        .lines()
        .skip(2)
        .filter(|line| line.starts_with('+') || line.starts_with('-'))
        .count()
}
