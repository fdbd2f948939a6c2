//! hstore's text (`"k"=>"v", "n"=>NULL`, contrib/hstore/hstore_io.c) as the text of a JSON object.

use crate::json::put_string;

/// The JSON text, keys in hstore's own order; `None` for what hstore_out does not write.
pub fn to_json(text: &[u8]) -> Option<String> {
    let mut rest = std::str::from_utf8(text).ok()?;
    let mut out = vec![b'{'];
    while !rest.is_empty() {
        if out.len() > 1 {
            rest = rest.strip_prefix(", ")?;
            out.push(b',');
        }
        let key = take_quoted(&mut rest)?;
        put_string(&mut out, &key);
        out.push(b':');
        rest = rest.strip_prefix("=>")?;
        match rest.strip_prefix("NULL") {
            Some(after) => {
                rest = after;
                out.extend_from_slice(b"null");
            }
            None => put_string(&mut out, &take_quoted(&mut rest)?),
        }
    }
    out.push(b'}');
    String::from_utf8(out).ok()
}

/// Takes a text in double quotes off the front; a backslash stands before a quote or backslash that is part of it.
fn take_quoted(rest: &mut &str) -> Option<String> {
    let inner = rest.strip_prefix('"')?;
    let mut text = String::new();
    let mut characters = inner.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                *rest = &inner[at + 1..];
                return Some(text);
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
            assert_eq!(to_json(text.as_bytes()).as_deref(), json, "{text}");
        }
    }
}
