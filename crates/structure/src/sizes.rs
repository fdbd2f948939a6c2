//! How large files, functions and folders are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::{self, Visit};

use crate::modules::plain;

/// A function and its length.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its name, behind that of its type: `Renderer::render`.
    pub(crate) name: String,
    /// Lines between its braces that hold code: no blank lines, no comments.
    pub(crate) lines: usize,
}

/// Every function of a file, also of its tests. Of those of one name the longest.
pub(crate) fn functions(text: &str) -> Result<Vec<Function>, syn::Error> {
    let mut search = Search::default();
    search.visit_file(&syn::parse_file(text)?);
    let functions = search.found.into_iter();
    Ok(functions
        .map(|(name, lines)| Function { name, lines })
        .collect())
}

/// How many files stand in each folder itself.
pub(crate) fn files_in_folders(files: &[PathBuf]) -> BTreeMap<&Path, usize> {
    let mut found = BTreeMap::new();
    for file in files {
        if let Some(folder) = file.parent() {
            *found.entry(folder).or_default() += 1;
        }
    }
    found
}

#[derive(Default)]
struct Search {
    found: BTreeMap<String, usize>,
    /// The type of the `impl` or the trait around.
    owner: Option<String>,
}

impl Search {
    fn add(&mut self, name: &proc_macro2::Ident, body: &syn::Block) {
        let name = match &self.owner {
            Some(owner) => format!("{owner}::{}", plain(name)),
            None => plain(name),
        };
        let mut lines = BTreeSet::new();
        for statement in &body.stmts {
            add_lines(statement.to_token_stream(), &mut lines);
        }
        let longest = self.found.entry(name).or_default();
        *longest = lines.len().max(*longest);
    }

    fn inside(&mut self, owner: Option<String>, visit: impl FnOnce(&mut Search)) {
        let before = std::mem::replace(&mut self.owner, owner);
        visit(self);
        self.owner = before;
    }
}

impl Visit<'_> for Search {
    fn visit_item_fn(&mut self, function: &syn::ItemFn) {
        self.add(&function.sig.ident, &function.block);
        self.inside(None, |search| visit::visit_item_fn(search, function));
    }

    fn visit_impl_item_fn(&mut self, function: &syn::ImplItemFn) {
        self.add(&function.sig.ident, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.add(&function.sig.ident, body);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_impl(&mut self, block: &syn::ItemImpl) {
        let owner = match &*block.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| plain(&last.ident)),
            _ => None,
        };
        self.inside(owner, |search| visit::visit_item_impl(search, block));
    }

    fn visit_item_trait(&mut self, declared: &syn::ItemTrait) {
        let owner = Some(plain(&declared.ident));
        self.inside(owner, |search| visit::visit_item_trait(search, declared));
    }
}

fn add_lines(tokens: TokenStream, lines: &mut BTreeSet<usize>) {
    for token in tokens {
        let span = token.span();
        match token {
            TokenTree::Group(group) => {
                lines.insert(group.span_open().start().line);
                lines.insert(group.span_close().end().line);
                add_lines(group.stream(), lines);
            }
            // A text may have many lines.
            _ => lines.extend(span.start().line..=span.end().line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_code_count() {
        let text = "
            fn f() {
                // A comment.

                let x = \"one
                    two\";
                g(
                    x,
                );
            }
            struct S;
            impl S { fn one() { 1; } }
            mod inner { trait T { fn with_body() { 1;
                2; } fn without(); } }
            fn empty() {}";
        let found = functions(text).expect("Rust");
        let found: Vec<(&str, usize)> = found.iter().map(|f| (f.name.as_str(), f.lines)).collect();
        assert_eq!(
            found,
            [("S::one", 1), ("T::with_body", 2), ("empty", 0), ("f", 5)]
        );
    }

    #[test]
    fn folders_have_what_stands_in_themselves() {
        let files = ["a/x.rs", "a/y.rs", "a/b/z.rs"].map(PathBuf::from);
        let found = files_in_folders(&files);
        assert_eq!(found[Path::new("a")], 2);
        assert_eq!(found[Path::new("a/b")], 1);
    }
}
