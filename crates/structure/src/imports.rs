//! Which file of a crate uses names of which other one.
//!
//! Every path counts, in `use` declarations, in code and in what is given to macros; `mod child;` alone is no import. A
//! name that a module only passes on (`pub use`) is followed to where it is defined.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use syn::Item;

use crate::modules::{Crate, Module, plain, uses};

/// For each file the files whose names it uses.
pub(crate) type Imports = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// How many times a name that is passed on is followed: an end for names that go in a circle.
const MOST_HOPS: usize = 16;

/// The imports of a crate.
pub(crate) fn imports(of: &Crate) -> Imports {
    let mut found = Imports::new();
    for (path, module) in &of.modules {
        let from = found.entry(module.file.clone()).or_default();
        for item in &module.items {
            let mut written = Vec::new();
            match item {
                Item::Use(declared) => {
                    written.extend(uses(&declared.tree).into_iter().map(|one| one.path));
                }
                item => paths(item.to_token_stream(), &mut written),
            }
            let files = written
                .iter()
                .filter_map(|written| target(of, path, module, written, MOST_HOPS));
            from.extend(
                files
                    .filter(|file| *file != module.file)
                    .map(Path::to_owned),
            );
        }
    }
    found
}

/// The file that defines what a path names, if that is a file of the crate.
fn target<'a>(
    of: &'a Crate,
    path: &[String],
    module: &'a Module,
    written: &[String],
    hops: usize,
) -> Option<&'a Path> {
    let hops = hops.checked_sub(1)?;
    let (mut place, mut rest): (Vec<String>, &[String]) = match written.first()?.as_str() {
        "crate" => (Vec::new(), &written[1..]),
        "self" => (path.to_vec(), &written[1..]),
        "super" => {
            let ups = written.iter().take_while(|name| *name == "super").count();
            let place = path.get(..path.len().checked_sub(ups)?)?;
            (place.to_vec(), &written[ups..])
        }
        first => {
            let mut child = path.to_vec();
            child.push(first.to_owned());
            if of.modules.contains_key(&child) {
                (path.to_vec(), written)
            } else {
                let bound = module.bindings.get(first)?;
                if bound.first().map(String::as_str) == Some(first) {
                    return None; // Another crate.
                }
                let whole = [bound, &written[1..]].concat();
                return target(of, path, module, &whole, hops);
            }
        }
    };
    let mut at = of.modules.get(&place)?;
    while let Some((next, after)) = rest.split_first() {
        place.push(next.clone());
        match of.modules.get(&place) {
            Some(child) => (at, rest) = (child, after),
            None => {
                place.pop();
                break;
            }
        }
    }
    let Some((name, after)) = rest.split_first() else {
        return Some(&at.file);
    };
    if let Some(bound) = at.bindings.get(name) {
        let whole = [bound, after].concat();
        if let Some(file) = target(of, &place, at, &whole, hops) {
            return Some(file);
        }
    }
    match of.macros.get(name) {
        Some(definer) if place.is_empty() => of.modules.get(definer).map(|m| m.file.as_path()),
        _ => Some(&at.file),
    }
}

/// Every path of at least two names.
fn paths(tokens: TokenStream, found: &mut Vec<Vec<String>>) {
    let mut tokens = tokens.into_iter().peekable();
    // Whether a path goes on that began before a `<`: its next name is none of a module.
    let mut goes_on = false;
    while let Some(token) = tokens.next() {
        match token {
            // What follows `pub` says who sees it, and uses nothing.
            TokenTree::Ident(ident) if ident == "pub" => {
                if matches!(tokens.peek(), Some(TokenTree::Group(_))) {
                    tokens.next();
                }
            }
            TokenTree::Ident(ident) => {
                let mut path = vec![plain(&ident)];
                let mut open = false;
                while is_colon(tokens.peek(), Spacing::Joint) {
                    tokens.next();
                    tokens.next();
                    open = true;
                    let Some(TokenTree::Ident(next)) = tokens.peek() else {
                        break;
                    };
                    path.push(plain(next));
                    tokens.next();
                    open = false;
                }
                if path.len() > 1 && !goes_on || path.len() == 1 && open && !goes_on {
                    found.push(path);
                }
                goes_on = open;
            }
            TokenTree::Group(group) => {
                paths(group.stream(), found);
                goes_on = false;
            }
            TokenTree::Punct(punct)
                if punct.as_char() == ':' && punct.spacing() == Spacing::Joint =>
            {
                tokens.next();
                goes_on = true;
            }
            _ => goes_on = false,
        }
    }
}

fn is_colon(token: Option<&TokenTree>, spacing: Spacing) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':' && punct.spacing() == spacing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crate of these files; what is found, as `from -> to`.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("make the folder");
            std::fs::write(file, text).expect("write the file");
        }
        let read = Crate::read(&folder.path().join("lib.rs")).expect("a crate");
        let name = |file: &Path| {
            let inside = file
                .strip_prefix(folder.path())
                .expect("a file of the crate");
            inside.to_str().expect("UTF-8").to_owned()
        };
        let mut arrows = Vec::new();
        for (from, to) in imports(&read) {
            arrows.extend(
                to.iter()
                    .map(|to| format!("{} -> {}", name(&from), name(to))),
            );
        }
        arrows
    }

    #[test]
    fn a_declaration_of_a_module_is_no_import() {
        assert!(found(&[("lib.rs", "mod a; pub mod b;"), ("a.rs", ""), ("b.rs", "")]).is_empty());
    }

    #[test]
    fn uses_are_followed_to_the_file() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "use crate::b::{c::{self, One}, Two as Three}; use std::fs;",
            ),
            ("b/mod.rs", "pub mod c; pub struct Two; use super::a::f;"),
            ("b/c.rs", "pub struct One; use super::Two;"),
        ];
        assert_eq!(
            found(&files),
            [
                "a.rs -> b/c.rs",
                "a.rs -> b/mod.rs",
                "b/c.rs -> b/mod.rs",
                "b/mod.rs -> a.rs"
            ]
        );
    }

    #[test]
    fn paths_in_code_and_in_macros_count() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; mod d; fn f() { a::f() }"),
            ("a.rs", "pub fn f() { println!(\"{}\", crate::b::N); }"),
            (
                "b.rs",
                "pub const N: u8 = 1; fn g() -> Vec<super::c::T> { Vec::<u8>::new(); x::b::y() }",
            ),
            (
                "c.rs",
                "pub struct T; impl T { pub(in crate::d) fn f(&self) {} }",
            ),
            ("d.rs", "fn f() { use crate::c::T; }"),
        ];
        assert_eq!(
            found(&files),
            [
                "a.rs -> b.rs",
                "b.rs -> c.rs",
                "d.rs -> c.rs",
                "lib.rs -> a.rs"
            ]
        );
    }

    #[test]
    fn what_is_passed_on_is_followed() {
        let files = [
            ("lib.rs", "mod a; mod b; pub use b::T; #[macro_use] mod m;"),
            ("a.rs", "use crate::T; fn f() { crate::say!() }"),
            ("b.rs", "pub struct T;"),
            ("m.rs", "#[macro_export] macro_rules! say { () => {} }"),
        ];
        assert_eq!(
            found(&files),
            ["a.rs -> b.rs", "a.rs -> m.rs", "lib.rs -> b.rs"]
        );
    }

    #[test]
    fn modules_are_found_by_their_binding() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b as other; fn f() { other::c::g() }"),
            ("b/mod.rs", "pub mod c;"),
            ("b/c.rs", "pub fn g() {}"),
        ];
        assert_eq!(found(&files), ["a.rs -> b/c.rs", "a.rs -> b/mod.rs"]);
    }

    #[test]
    fn tests_may_look_at_everything() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "#[cfg(test)] mod tests { use crate::b::T; } #[test] fn f() { crate::b::g() }",
            ),
            ("b.rs", "use crate::a::X;"),
        ];
        assert_eq!(found(&files), ["b.rs -> a.rs"]);
    }
}
