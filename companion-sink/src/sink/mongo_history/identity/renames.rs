//! Names of columns over time: what a column was called first, and what it was called then.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A column got another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rename {
    /// By the definition of this version.
    pub(crate) from: String,
    /// The name before.
    pub(crate) old: String,
    /// The name after.
    pub(crate) new: String,
}

/// What a column was called first, by the name that it has at a version. A column that got the name of one which had been
/// renamed before is another column.
pub(crate) fn first_name(renames: &[Rename], name: &str, version: &str) -> String {
    let mut name = Cow::Borrowed(name);
    for rename in renames
        .iter()
        .rev()
        .filter(|rename| *rename.from <= *version)
    {
        if *rename.new == *name {
            name = Cow::Borrowed(&rename.old);
        } else if *rename.old == *name {
            let given_up = renames
                .iter()
                .filter(|other| *other.from <= *rename.from && other.old == rename.old)
                .count();
            return format!("{name}~{}", given_up + 1);
        }
    }
    name.into_owned()
}

/// The names that a column has had, by its first one, up to a version.
pub(crate) fn names_of(renames: &[Rename], first: &str, until: Option<&str>) -> Vec<String> {
    let (base, earlier) = match first.rsplit_once('~') {
        Some((base, number)) => match number.parse::<usize>() {
            Ok(number @ 2..) => (base, number - 1),
            _ => (first, 0),
        },
        None => (first, 0),
    };
    let mut given_up = 0;
    let mut names = vec![base.to_owned()];
    for rename in renames {
        if until.is_some_and(|until| *rename.from > *until) {
            break;
        }
        let is_there = given_up == earlier;
        if is_there && names.last() == Some(&rename.old) {
            names.push(rename.new.clone());
        } else if !is_there && rename.old == base {
            given_up += 1;
        }
    }
    names
}
