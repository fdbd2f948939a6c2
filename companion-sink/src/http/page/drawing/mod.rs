//! Drawings, as SVG in a page. Their colours are the style sheet's.

pub(crate) mod picture;
pub(crate) mod plot;

/// A text between marks, or as a value of one.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// The end of a text that is too long, for names differ there.
pub(crate) fn ending(text: &str, chars_max: usize) -> String {
    let count = text.chars().count();
    match count > chars_max {
        true => format!(
            "…{}",
            text.chars().skip(count - chars_max + 1).collect::<String>()
        ),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_texts() {
        assert_eq!(
            escaped("<a b='c'>&\n"),
            "&lt;a b=&#39;c&#39;&gt;&amp;\u{fffd}"
        );
        assert_eq!(ending("shop.public.customer", 9), "…customer");
        assert_eq!(ending("short", 9), "short");
    }
}
