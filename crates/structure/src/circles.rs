//! Circles of imports: files of which each reaches each other one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::imports::Imports;

/// Every circle, as the set of its files: the strongly connected parts of more than one.
pub(crate) fn circles(imports: &Imports) -> Vec<BTreeSet<PathBuf>> {
    let reached: BTreeMap<&Path, BTreeSet<&Path>> = imports
        .keys()
        .map(|file| (file.as_path(), reach(imports, file)))
        .collect();
    let mut found: Vec<BTreeSet<PathBuf>> = Vec::new();
    for (file, reaches) in &reached {
        if found.iter().any(|circle| circle.contains(*file)) {
            continue;
        }
        let circle: BTreeSet<PathBuf> = reaches
            .iter()
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(file)))
            .map(|other| (*other).to_owned())
            .collect();
        if !circle.is_empty() {
            found.push(circle);
        }
    }
    found
}

/// The arrows inside a circle: what one of them has to lose.
pub(crate) fn arrows(imports: &Imports, circle: &BTreeSet<PathBuf>) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for from in circle {
        let to = imports.get(from).into_iter().flatten();
        found.extend(
            to.filter(|to| circle.contains(*to))
                .map(|to| (from.clone(), to.clone())),
        );
    }
    found
}

/// What is reached from a file over one arrow or more.
fn reach<'a>(imports: &'a Imports, from: &Path) -> BTreeSet<&'a Path> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&Path> = vec![from];
    while let Some(file) = open.pop() {
        for next in imports.get(file).into_iter().flatten() {
            if seen.insert(next.as_path()) {
                open.push(next);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(arrows: &[(&str, &str)]) -> Vec<Vec<String>> {
        let mut imports = Imports::new();
        for (from, to) in arrows {
            imports.entry(PathBuf::from(to)).or_default();
            imports
                .entry(PathBuf::from(from))
                .or_default()
                .insert(PathBuf::from(to));
        }
        let names = |circle: BTreeSet<PathBuf>| {
            let name = |file: &PathBuf| file.display().to_string();
            circle.iter().map(name).collect()
        };
        circles(&imports).into_iter().map(names).collect()
    }

    #[test]
    fn a_tree_and_a_diamond_have_none() {
        assert!(found(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]).is_empty());
    }

    #[test]
    fn circles_are_found_whole_and_apart() {
        let arrows = [
            ("a", "b"),
            ("b", "c"),
            ("c", "a"),
            ("c", "d"),
            ("d", "e"),
            ("e", "d"),
            ("e", "f"),
        ];
        assert_eq!(found(&arrows), [vec!["a", "b", "c"], vec!["d", "e"]]);
    }
}
