//! What a `statistics` sink has of its own. What stands there is read as what it means at once, so that a mistake is told with
//! its line.

pub(crate) mod calendar;
pub(crate) mod measure;
pub(crate) mod path;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::statistics::calendar::{PeriodName, ZoneName};
use crate::config::statistics::measure::Measure;
use crate::config::statistics::path::{Path, Root};

/// What a `statistics` sink has of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StatisticsSettings {
    /// Where an event has its time; empty for the time of its commit.
    #[serde(deserialize_with = "optional_path")]
    pub(crate) time: String,
    /// What figures are of.
    pub(crate) period: PeriodName,
    /// Whose calendar that is.
    pub(crate) time_zone: ZoneName,
    /// What events are told apart by; none for one row of figures for each period.
    pub(crate) group_by: Vec<Path>,
    /// Which events count; empty for all.
    pub(crate) r#where: String,
    /// The figures.
    pub(crate) measures: Vec<Measure>,
    /// The folder of the figures.
    pub(crate) store: String,
}

impl Default for StatisticsSettings {
    fn default() -> Self {
        StatisticsSettings {
            time: String::new(),
            period: PeriodName::Day,
            time_zone: ZoneName::utc(),
            group_by: Vec::new(),
            r#where: String::new(),
            measures: vec![Measure::count()],
            store: "./statistics".into(),
        }
    }
}

impl StatisticsSettings {
    /// The path of the time; none for that of the commit.
    pub(crate) fn time(&self) -> Option<Path> {
        Path::parse(&self.time).ok()
    }

    /// The names of the columns of an answer, the period's first.
    pub(crate) fn columns(&self) -> Vec<&str> {
        let groups = self.group_by.iter().map(Path::name);
        let measures = self.measures.iter().map(|measure| &*measure.name);
        ["period"]
            .into_iter()
            .chain(groups)
            .chain(measures)
            .collect()
    }

    /// What cannot be meant: the key, and why.
    pub(crate) fn mistake(&self) -> Option<(&'static str, String)> {
        if self.measures.is_empty() {
            return Some(("measures", "no measure".to_owned()));
        }
        if self.measures.len() > u8::MAX.into() || self.group_by.len() > u8::MAX.into() {
            return Some(("measures", "more than 255 columns".to_owned()));
        }
        if self.store.is_empty() {
            return Some(("store", "no folder".to_owned()));
        }
        let columns = self.columns();
        let is_twice = |(place, name): &(usize, &&str)| columns[..*place].contains(*name);
        let (place, name) = columns.iter().enumerate().find(is_twice)?;
        let key = match place > self.group_by.len() {
            true => "measures",
            false => "group_by",
        };
        Some((key, format!("two columns have the name \"{name}\"")))
    }
}

fn optional_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(text);
    }
    let path = Path::parse(&text).map_err(D::Error::custom)?;
    match path.root {
        Root::Op => Err(D::Error::custom("op is no time")),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Kind, Loaded};
    use crate::error::Result;

    fn parse(text: &str) -> Result<Loaded> {
        Loaded::parse("f.toml", text, std::iter::empty())
    }

    #[test]
    fn mistakes_of_a_sink_of_figures_are_told_with_their_place() {
        let figures = |more: &str| {
            let text = format!(
                "kafka.brokers = \"b\"\n[sink.f]\nkind = \"statistics\"\ntopics = [\"*\"]\n{more}\n"
            );
            parse(&text).map_err(|error| error.message)
        };
        let good = figures(
            "time = \"after.at\"\nperiod = \"hour\"\ntime_zone = \"Europe/Zurich\"\ngroup_by = [\"after.a\", \"op\"]\nmeasures = [\"count()\", \"sum(after.n) as total\"]",
        );
        let good = good.unwrap();
        let Kind::Statistics(settings) = &good.sinks["f"].kind else {
            panic!("figures");
        };
        assert_eq!(settings.columns(), ["period", "a", "op", "count", "total"]);
        let printed = toml::to_string(&*good).unwrap();
        assert_eq!(parse(&printed).unwrap(), good);
        for (wrong, told) in [
            (
                "time_zone = \"Europe/Zurch\"",
                "f.toml:5:13: sink.f.time_zone: unknown time zone \"Europe/Zurch\", did you mean \"Europe/Zurich\"?",
            ),
            ("period = \"dya\"", "did you mean \"day\"?"),
            (
                "measures = [\"count()\", \"summ(after.n)\"]",
                "f.toml:5:24: sink.f.measures: unknown measure \"summ\", did you mean \"sum\"?",
            ),
            (
                "group_by = [\"account\"]",
                "f.toml:5:13: sink.f.group_by: \"account\" is no path",
            ),
            ("time = \"aftr.at\"", "did you mean \"after\"?"),
            (
                "measures = [\"sum(after.n)\", \"sum(value.n)\"]",
                "two columns have the name \"sum_n\"",
            ),
            ("measures = []", "no measure"),
            ("url = \"x\"", "figures are kept in a folder"),
            ("perid = \"day\"", "did you mean \"period\"?"),
        ] {
            let error = figures(wrong).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }
}
