//! Every code `CDCnnnn` of the sources has its page and its row in `docs/errors`, and every page its code.

use std::collections::BTreeSet;

/// The codes in the text of a source or of a document.
pub(crate) fn codes(text: &str) -> BTreeSet<u32> {
    let numbers = text.split("CDC").skip(1).filter_map(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        (digits == 4).then(|| rest[..4].parse().ok())?
    });
    numbers.collect()
}

/// The codes that an `enum Code` of a source has as its numbers.
pub(crate) fn numbered(file: &syn::File) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for item in &file.items {
        let syn::Item::Enum(declared) = item else {
            continue;
        };
        if declared.ident != "Code" {
            continue;
        }
        for variant in &declared.variants {
            if let Some((_, syn::Expr::Lit(literal))) = &variant.discriminant
                && let syn::Lit::Int(number) = &literal.lit
                && let Ok(number) = number.base10_parse()
            {
                found.insert(number);
            }
        }
    }
    found
}

/// What does not fit: of the codes in the sources, the pages, and the rows of the table of pages.
pub(crate) fn compare(
    used: &BTreeSet<u32>,
    pages: &BTreeSet<u32>,
    rows: &BTreeSet<u32>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for code in used.difference(pages) {
        problems.push(format!(
            "CDC{code:04} has no page docs/errors/CDC{code:04}.md."
        ));
    }
    for code in pages.difference(used) {
        problems.push(format!(
            "docs/errors/CDC{code:04}.md: no source has the code. Remove the page and its row."
        ));
    }
    for code in pages.symmetric_difference(rows) {
        problems.push(format!(
            "docs/errors/README.md: there is either a row or a page of CDC{code:04}, not both."
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_four_digits() {
        let found = codes("CDC0101, [CDC1004](CDC1004.md), CDCnnnn, CDC01, CDC12345");
        assert_eq!(found, BTreeSet::from([101, 1004]));
    }

    #[test]
    fn codes_stand_as_numbers_as_well() {
        let file = syn::parse_file("enum Code { A = 1001, B = 1_002 } enum Other { C = 7 }");
        assert_eq!(numbered(&file.expect("Rust")), BTreeSet::from([1001, 1002]));
    }

    #[test]
    fn what_has_no_counterpart_is_told() {
        let of = |codes: &[u32]| codes.iter().copied().collect::<BTreeSet<u32>>();
        assert!(compare(&of(&[1, 2]), &of(&[1, 2]), &of(&[1, 2])).is_empty());
        assert_eq!(compare(&of(&[1, 2]), &of(&[1]), &of(&[1])).len(), 1);
        assert_eq!(compare(&of(&[1]), &of(&[1, 2]), &of(&[1, 2])).len(), 1);
        assert_eq!(compare(&of(&[1, 2]), &of(&[1, 2]), &of(&[1])).len(), 1);
    }
}
