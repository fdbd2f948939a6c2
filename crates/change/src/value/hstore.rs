//! hstore's text (`"k"=>"v", "n"=>NULL`, contrib/hstore/hstore_io.c) as the text of a JSON object.

use crate::memory::may_fail;
use crate::value::json::{escaped_len, put_string};
use crate::wire::{WireError, make_room};

/// The JSON text, keys in hstore's own order; `None` for what hstore_out does not write.
pub fn to_json(text: &[u8]) -> Result<Option<String>, WireError> {
    let Ok(rest) = std::str::from_utf8(text) else {
        return Ok(None);
    };
    let (mut out, mut part) = (Vec::new(), String::new());
    make_room(&mut out, escaped_len(text))?;
    may_fail(|| part.try_reserve(text.len())).map_err(|_| WireError::OutOfMemory)?;
    Ok(put_members(&mut out, &mut part, rest).and_then(|()| String::from_utf8(out).ok()))
}

/// Appends the object; `part` is room for a key or a value.
fn put_members(out: &mut Vec<u8>, part: &mut String, mut rest: &str) -> Option<()> {
    out.push(b'{');
    while !rest.is_empty() {
        if out.len() > 1 {
            rest = rest.strip_prefix(", ")?;
            out.push(b',');
        }
        take_quoted(&mut rest, part)?;
        put_string(out, part);
        out.push(b':');
        rest = rest.strip_prefix("=>")?;
        match rest.strip_prefix("NULL") {
            Some(after) => {
                rest = after;
                out.extend_from_slice(b"null");
            }
            None => {
                take_quoted(&mut rest, part)?;
                put_string(out, part);
            }
        }
    }
    out.push(b'}');
    Some(())
}

/// Takes a text in double quotes off the front; a backslash stands before a quote or backslash that is part of it.
fn take_quoted(rest: &mut &str, text: &mut String) -> Option<()> {
    let inner = rest.strip_prefix('"')?;
    text.clear();
    let mut characters = inner.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                *rest = &inner[at + 1..];
                return Some(());
            }
            '\\' => text.push(characters.next()?.1),
            character => text.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_members() {
        for (text, json) in [
            ("", Some("{}")),
            (r#""k"=>"v", "n"=>NULL"#, Some(r#"{"k":"v","n":null}"#)),
            (r#""a\"\\"=>"=>, \"x\"""#, Some(r#"{"a\"\\":"=>, \"x\""}"#)),
            (r#""NULL"=>"NULL""#, Some(r#"{"NULL":"NULL"}"#)),
            (r#""k"="#, None),
            (r#""k"#, None),
        ] {
            let made = to_json(text.as_bytes()).unwrap();
            assert_eq!(made.as_deref(), json, "{text}");
        }
    }
}
