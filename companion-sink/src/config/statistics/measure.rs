//! A measure: `sum(after.amount)`, with a name of its own as `sum(after.amount) as total`.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::nearest::nearest;
use crate::config::statistics::path::Path;

const FUNCTIONS: [(&str, Function); 6] = [
    ("count", Function::Count),
    ("sum", Function::Sum),
    ("min", Function::Min),
    ("max", Function::Max),
    ("avg", Function::Average),
    ("distinct", Function::Distinct),
];

/// What is made of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    /// How many rows, or, of a path, how many that have a value there.
    Count,
    /// All numbers added.
    Sum,
    /// The lowest.
    Min,
    /// The highest.
    Max,
    /// The sum through the number of values.
    Average,
    /// How many different ones.
    Distinct,
}

/// A measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measure {
    text: String,
    /// What is made of the values.
    pub(crate) function: Function,
    /// Where they are; none for the rows themselves.
    pub(crate) path: Option<Path>,
    /// The name of its column in answers.
    pub(crate) name: String,
}

impl Measure {
    /// `count()`
    pub(crate) fn count() -> Measure {
        Measure {
            text: "count()".into(),
            function: Function::Count,
            path: None,
            name: "count".into(),
        }
    }

    /// Reads a measure; what is wrong with it is told in words.
    pub(crate) fn parse(text: &str) -> Result<Measure, String> {
        let no_measure = || {
            format!(
                "\"{text}\" is no measure, such as count(), sum(after.amount) or sum(after.amount) as total"
            )
        };
        let (call, name) = match text.rsplit_once(" as ") {
            Some((call, name)) => (call.trim(), Some(name.trim())),
            None => (text.trim(), None),
        };
        let (function_name, argument) = call.split_once('(').ok_or_else(no_measure)?;
        let argument = argument.strip_suffix(')').ok_or_else(no_measure)?.trim();
        let function_name = function_name.trim();
        let found = FUNCTIONS.iter().find(|(name, _)| *name == function_name);
        let Some((_, function)) = found else {
            let near = nearest(function_name, FUNCTIONS.iter().map(|(name, _)| *name));
            let meant = near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
            return Err(format!(
                "unknown measure \"{function_name}\"{meant} (count, sum, min, max, avg and distinct are there)"
            ));
        };
        let path = match argument {
            "" if *function == Function::Count => None,
            "" => return Err(format!("{function_name} of what? {}", no_measure())),
            path => Some(Path::parse(path)?),
        };
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
        let name = match (name, &path) {
            (Some(name), _) if name.is_empty() || !name.chars().all(is_plain) => {
                return Err(format!(
                    "\"{name}\" is no name of a measure: letters, digits, _ and -"
                ));
            }
            (Some(name), _) => name.to_owned(),
            (None, None) => function_name.to_owned(),
            (None, Some(path)) => format!("{function_name}_{}", path.name()),
        };
        Ok(Measure {
            text: text.to_owned(),
            function: *function,
            path,
            name,
        })
    }
}

impl<'de> Deserialize<'de> for Measure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Measure::parse(&text).map_err(D::Error::custom)
    }
}

impl Serialize for Measure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_are_read() {
        let measure = Measure::parse("sum( after.amount ) as total").unwrap();
        assert_eq!((measure.function, &*measure.name), (Function::Sum, "total"));
        assert_eq!(
            Measure::parse("distinct(value.user.id)").unwrap().name,
            "distinct_id"
        );
        assert_eq!(Measure::parse("count()").unwrap(), Measure::count());
        for (wrong, told) in [
            ("summ(after.amount)", "did you mean \"sum\"?"),
            ("sum(aftr.amount)", "did you mean \"after\"?"),
            ("sum()", "sum of what?"),
            ("sum(after.amount", "is no measure"),
            ("sum(after.a * 2)", "is no path"),
            ("sum(after.a) as a b", "is no name"),
            ("count", "is no measure"),
        ] {
            let error = Measure::parse(wrong).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }
}
