//! Every code of the enum `Code` has its page and its row in `docs/errors`, and is used; nothing names a code in another way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use change::code::Code;
use syn::visit::Visit;

/// The sources that name codes only as variants of `Code`.
pub(crate) const ENUM: &str = "crates/change/src/code.rs";
/// The rows of the table of pages.
pub(crate) const TABLE: &str = "docs/errors/README.md";

/// The numbers `CDCnnnn` in a text.
fn numbers(text: &str) -> BTreeSet<u16> {
    let numbers = text.split("CDC").skip(1).filter_map(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        (digits == 4).then(|| rest[..4].parse().ok())?
    });
    numbers.collect()
}

/// The variants of `Code` in a source, and the codes in its texts. Not what only tests have.
#[derive(Default)]
struct Codes {
    variants: BTreeSet<String>,
    texts: BTreeSet<u16>,
}

impl Codes {
    fn of(text: &str) -> syn::Result<Codes> {
        let mut found = Codes::default();
        found.visit_file(&syn::parse_file(text)?);
        Ok(found)
    }

    /// Macros are what no tree of syntax is made of.
    fn take_tokens(&mut self, tokens: proc_macro2::TokenStream) {
        let tokens: Vec<proc_macro2::TokenTree> = tokens.into_iter().collect();
        for (place, token) in tokens.iter().enumerate() {
            match token {
                proc_macro2::TokenTree::Group(group) => self.take_tokens(group.stream()),
                proc_macro2::TokenTree::Literal(literal) => {
                    self.texts.extend(numbers(&literal.to_string()));
                }
                proc_macro2::TokenTree::Ident(name) if name == "Code" => {
                    if let Some(proc_macro2::TokenTree::Ident(variant)) = tokens.get(place + 3) {
                        self.variants.insert(variant.to_string());
                    }
                }
                _ => {}
            }
        }
    }
}

fn is_of_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|what| what == "test")
    })
}

impl<'ast> Visit<'ast> for Codes {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_of_tests(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    /// Comments are for people.
    fn visit_attribute(&mut self, _attribute: &'ast syn::Attribute) {}

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.texts.extend(numbers(&text.value()));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if let [.., of, variant] = &names[..]
            && of == "Code"
        {
            self.variants.insert(variant.clone());
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.take_tokens(call.tokens.clone());
    }
}

/// What does not fit in the sources: codes in texts, and codes that nothing uses. `sql` are scripts, which have texts only.
pub(crate) fn problems_of_use(
    sources: &BTreeMap<PathBuf, String>,
    sql: &[String],
) -> syn::Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut variants = BTreeSet::new();
    let in_sql: BTreeSet<u16> = sql.iter().flat_map(|text| numbers(text)).collect();
    for (file, text) in sources {
        if file.as_os_str() == ENUM {
            continue;
        }
        let codes = Codes::of(text)?;
        for number in codes.texts {
            problems.push(format!(
                "{} has the text CDC{number:04}: write the variant of Code.",
                file.display()
            ));
        }
        variants.extend(codes.variants);
    }
    for number in &in_sql {
        if Code::of_number(*number).is_none() {
            problems.push(format!("sql has CDC{number:04}, which {ENUM} has not."));
        }
    }
    for code in Code::ALL {
        if !variants.contains(&format!("{code:?}")) && !in_sql.contains(&code.number()) {
            problems.push(format!(
                "{ENUM}: nothing uses {code}. Remove it, its page and its row."
            ));
        }
    }
    Ok(problems)
}

/// The page of a code begins so.
fn heading(code: Code) -> String {
    format!("# {code}: {}\n", code.title())
}

/// The row of a code begins so: what comes last is where it is seen.
fn row(code: Code) -> String {
    let (title, follows) = (code.title(), code.recovery().as_str());
    format!("| [{code}]({code}.md) | {title} | {follows} | ")
}

/// The SQLSTATEs that a page names, but for that of warnings.
fn sqlstates(page: &str) -> impl Iterator<Item = &str> {
    let named = page.split("SQLSTATE ").skip(1);
    named.filter_map(|rest| rest.get(..5).filter(|state| *state != "01000"))
}

/// What does not fit of the pages, by their names, and of the table.
pub(crate) fn problems_of_pages(pages: &BTreeMap<String, &str>, table: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for code in Code::ALL {
        match pages.get(&format!("{code}.md")) {
            None => problems.push(format!("{code} has no page docs/errors/{code}.md.")),
            Some(page) if !page.starts_with(&heading(*code)) => problems.push(format!(
                "docs/errors/{code}.md does not begin with \"{}\".",
                heading(*code).trim_end()
            )),
            Some(page) => {
                // companion-sink names those of its target.
                let other = sqlstates(page).find(|state| *state != code.sqlstate());
                if let Some(other) = other.filter(|_| code.number() < 1000) {
                    problems.push(format!(
                        "docs/errors/{code}.md has SQLSTATE {other}; it is {}.",
                        code.sqlstate()
                    ));
                }
            }
        }
        if !table.lines().any(|line| line.starts_with(&row(*code))) {
            problems.push(format!("{TABLE} has no row \"{}… |\".", row(*code)));
        }
    }
    let known: BTreeSet<u16> = Code::ALL.iter().map(|code| code.number()).collect();
    let names = pages.keys().flat_map(|name| numbers(name));
    for number in names.chain(numbers(table)).collect::<BTreeSet<u16>>() {
        if !known.contains(&number) {
            problems.push(format!(
                "docs/errors has CDC{number:04}, which {ENUM} has not."
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_four_digits() {
        let found = numbers("CDC0101, [CDC1004](CDC1004.md), CDCnnnn, CDC01, CDC12345");
        assert_eq!(found, BTreeSet::from([101, 1004]));
    }

    #[test]
    fn codes_are_found_in_calls_macros_and_texts_and_not_in_tests_and_comments() {
        let codes = Codes::of(
            r#"
            /// CDC0001
            fn f() -> Trouble { Trouble::new(Code::NotLoaded, format!("see {} or CDC0401", Code::WalGone), "CDC0003") }
            #[cfg(test)]
            mod tests { const A: &str = "CDC0005"; const B: Code = Code::TimedOut; }
            "#,
        );
        let codes = codes.expect("Rust");
        assert_eq!(codes.texts, BTreeSet::from([3, 401]));
        let variants: Vec<&str> = codes.variants.iter().map(String::as_str).collect();
        assert_eq!(variants, ["NotLoaded", "WalGone"]);
    }

    #[test]
    fn texts_and_codes_that_nothing_uses_are_told() {
        let all: String = Code::ALL
            .iter()
            .map(|code| format!("const {code}: Code = Code::{code:?};\n"))
            .collect();
        let told = |source: &str, sql: &str| {
            let sources = BTreeMap::from([(PathBuf::from("src/lib.rs"), source.to_owned())]);
            problems_of_use(&sources, &[sql.to_owned()]).expect("Rust")
        };
        assert!(told(&all, "").is_empty());
        assert_eq!(
            told(&format!("{all} const A: &str = \"CDC0001\";"), "").len(),
            1
        );
        let first = "const CDC0001: Code = Code::NotLoaded;\n";
        assert_eq!(told(&all.replace(first, ""), "").len(), 1);
        assert!(told(&all.replace(first, ""), "HINT = '[CDC0001]'").is_empty());
        assert_eq!(told(&all, "HINT = '[CDC0002]'").len(), 1);
    }

    #[test]
    fn pages_and_rows_that_differ_are_told() {
        let all = Code::ALL.iter();
        let pages: Vec<(String, String)> = all
            .clone()
            .map(|code| (format!("{code}.md"), heading(*code)))
            .collect();
        let table: String = all.map(|code| format!("{}log |\n", row(*code))).collect();
        let mut pages: BTreeMap<String, &str> = pages
            .iter()
            .map(|(name, page)| (name.clone(), page.as_str()))
            .collect();
        assert!(problems_of_pages(&pages, &table).is_empty());
        let halted = table.replacen("halted", "tried again", 1);
        assert_eq!(problems_of_pages(&pages, &halted).len(), 1);
        let page = format!("{}SQLSTATE 22023.", heading(Code::NotLoaded));
        let before = pages.insert("CDC0001.md".to_owned(), &page);
        assert_eq!(problems_of_pages(&pages, &table).len(), 1);
        assert_eq!(before, Some("# CDC0001: pg_cdc is not loaded\n"));
        pages.insert("CDC0001.md".to_owned(), "# CDC0001: something else\n");
        assert_eq!(problems_of_pages(&pages, &table).len(), 1);
        pages.remove("CDC0001.md");
        assert_eq!(problems_of_pages(&pages, &table).len(), 1);
        pages.insert("CDC0002.md".to_owned(), "# CDC0002: nothing\n");
        assert_eq!(problems_of_pages(&pages, &table).len(), 2);
    }
}
