//! Parts of addresses.

use std::fmt::Write;

/// A text as one part of a path, or as a value behind a question mark.
pub(crate) fn path_part(text: &str) -> String {
    let mut part = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                part.push(char::from(byte));
            }
            // Writing into a text cannot fail.
            _ => drop(write!(part, "%{byte:02X}")),
        }
    }
    // Browsers take dots alone for folders.
    match part.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => part,
    }
}

/// A path with parameters; empty ones are left out.
pub(crate) fn with_parameters<'p>(
    path: &str,
    parameters: impl IntoIterator<Item = (&'p str, &'p str)>,
) -> String {
    let parameters = parameters
        .into_iter()
        .filter(|(_, value)| !value.is_empty());
    let parameters: Vec<String> = parameters
        .map(|(name, value)| format!("{}={}", path_part(name), path_part(value)))
        .collect();
    match parameters.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", parameters.join("&")),
    }
}

/// Whether an address leads to a page of this site.
pub(crate) fn is_local(address: &str) -> bool {
    let has_path = address.starts_with('/');
    let is_other = address.starts_with("//") || address.contains(['\\', '\r', '\n', '\t']);
    has_path && !is_other && address.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_parts_whatever_they_hold() {
        assert_eq!(path_part("a/b?c=d&\"<ä"), "a%2Fb%3Fc%3Dd%26%22%3C%C3%A4");
        assert_eq!(path_part(".."), "%2E%2E");
        let address = with_parameters("/topics", [("key", "a b"), ("op", ""), ("n", "1")]);
        assert_eq!(address, "/topics?key=a%20b&n=1");
        for (address, local) in [
            ("/history/t?x=1", true),
            ("//evil.example", false),
            ("/\\evil.example", false),
            ("https://evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_local(address), local, "{address}");
        }
    }
}
