//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

/// Metrics as text, family after family.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    text: String,
}

/// One sample: what stands behind the family's name (a suffix, then labels in braces, or nothing), and the value.
pub(crate) type Sample = (String, f64);

impl Metrics {
    /// Appends the family `name`; nothing where there are no samples.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str, samples: Vec<Sample>) {
        if samples.is_empty() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (rest, value) in samples {
            let _ = writeln!(self.text, "{name}{rest} {value}");
        }
    }

    /// What was written.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// Labels in braces.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_are_escaped() {
        assert_eq!(
            labels(&[("table", "a\"b\\c\nd"), ("op", "c")]),
            "{table=\"a\\\"b\\\\c\\nd\",op=\"c\"}"
        );
    }
}
