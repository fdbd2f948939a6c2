//! Arrays of more than one dimension as PostgreSQL prints them: not every server takes lists in lists, and nobody searches in
//! them. What was an array of an array is one text, which PostgreSQL reads again.

use serde_json::value::RawValue;

use crate::event::json::Malformed;
use crate::event::pg_type::PgType;
use crate::sink::postgres::write::pg_text::{quote, to_text};

/// Whether a JSON array has arrays in it.
pub(crate) fn is_nested(items: &[&RawValue]) -> bool {
    items.iter().any(|item| item.get().starts_with('['))
}

/// An array, as far as its type is known.
pub(crate) fn array_text(items: &[&RawValue], of: &PgType) -> Result<String, Malformed> {
    let plain = PgType::Plain;
    let (element, delimiter) = match of {
        PgType::Array { element, delimiter } => (&**element, *delimiter),
        _ => (&plain, ','),
    };
    let mut out = String::new();
    put(&mut out, items, element, delimiter)?;
    Ok(out)
}

fn put(
    out: &mut String,
    items: &[&RawValue],
    element: &PgType,
    delimiter: char,
) -> Result<(), Malformed> {
    out.push('{');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            out.push(delimiter);
        }
        if item.get().starts_with('[') {
            let items: Vec<&RawValue> = serde_json::from_str(item.get())
                .map_err(|_| Malformed("an array is not JSON".into()))?;
            put(out, &items, element, delimiter)?;
            continue;
        }
        let text = to_text(item, element)
            .map_err(|_| Malformed("an element of an array has another type".into()))?;
        match text {
            None => out.push_str("NULL"),
            Some(text) if is_bare(&text, delimiter) => out.push_str(&text),
            Some(text) => quote(out, &text),
        }
    }
    out.push('}');
    Ok(())
}

/// Whether an element needs no quotes, as array_out has it.
fn is_bare(text: &str, delimiter: char) -> bool {
    let is_special = |c: char| {
        matches!(c, '"' | '\\' | '{' | '}')
            || c == delimiter
            || c.is_ascii_whitespace()
            || c == '\u{b}'
    };
    !text.is_empty() && !text.eq_ignore_ascii_case("null") && !text.contains(is_special)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str, type_name: &str) -> String {
        let items: Vec<&RawValue> = serde_json::from_str(json).unwrap();
        assert!(is_nested(&items));
        array_text(&items, &PgType::of_name(type_name)).unwrap()
    }

    #[test]
    fn nested_arrays_are_written_as_postgresql_prints_them() {
        assert_eq!(text("[[1,2],[3,null]]", "integer[]"), "{{1,2},{3,NULL}}");
        assert_eq!(text("[[[1]],[[2]]]", "integer[]"), "{{{1}},{{2}}}");
        assert_eq!(
            text(r#"[["a b","NULL"],["","\"\\"]]"#, "text[]"),
            r#"{{"a b","NULL"},{"","\"\\"}}"#
        );
        assert_eq!(
            text(r#"[["2026-01-01"],["AQ=="]]"#, "date[]"),
            "{{2026-01-01},{AQ==}}"
        );
        assert_eq!(
            text(r#"[["AQ=="],[null]]"#, "bytea[]"),
            r#"{{"\\x01"},{NULL}}"#
        );
        assert_eq!(text(r#"[["(1,1),(0,0)"]]"#, "box[]"), "{{(1,1),(0,0)}}");
        assert_eq!(text("[[true,false]]", "boolean[]"), "{{true,false}}");
        assert_eq!(text("[[1]]", "nobody knows"), "{{1}}");
    }
}
