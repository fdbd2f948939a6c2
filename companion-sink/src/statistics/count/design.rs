//! What is counted, made ready once.

use serde_json::json;

use crate::config::StatisticsSettings;
use crate::config::statistics::measure::{Function, Measure};
use crate::config::statistics::path::Path;
use crate::rejected::failure::Failure;
use crate::rule::compiled::condition;
use crate::rule::expression::{Expression, Judgement};
use crate::rule::subject::ColumnTypeOf;
use crate::statistics::calendar::{Calendar, NO_TIME, Period};
use crate::statistics::count::contribution::Contribution;
use crate::statistics::count::found::Found;
use crate::statistics::decimal::Decimal;
use crate::statistics::kept::keys;
use crate::statistics::kept::keys::TopicNumber;
use crate::statistics::value::{VALUE_BYTES_MAX, Value};

/// What is counted.
pub(crate) struct Design {
    /// The periods.
    pub(crate) calendar: Calendar,
    time: Option<Path>,
    group_by: Vec<Path>,
    condition: Option<Expression>,
    inputs: Vec<Input>,
    /// The measures, each with the place of its input; `count()` has none.
    pub(crate) measures: Vec<(Measure, Option<usize>)>,
    /// What the store's content depends on.
    pub(crate) text: String,
}

/// A path whose values are made figures of.
struct Input {
    path: Path,
    is_summed: bool,
    /// Each value is kept with how often it is there: what is the lowest after a deletion, and how many there are, says nothing
    /// else.
    is_kept: bool,
}

impl Design {
    /// The design of a sink.
    pub(crate) fn new(settings: &StatisticsSettings) -> Result<Design, String> {
        let mut inputs: Vec<Input> = Vec::new();
        let mut measures = Vec::new();
        for measure in &settings.measures {
            let place = measure.path.as_ref().map(|path| {
                let known = inputs.iter().position(|input| input.path == *path);
                let place = known.unwrap_or(inputs.len());
                if known.is_none() {
                    inputs.push(Input {
                        path: path.clone(),
                        is_summed: false,
                        is_kept: false,
                    });
                }
                let input = &mut inputs[place];
                match measure.function {
                    Function::Count => {}
                    Function::Sum | Function::Average => input.is_summed = true,
                    Function::Min | Function::Max | Function::Distinct => input.is_kept = true,
                }
                place
            });
            measures.push((measure.clone(), place));
        }
        let paths = |paths: &[Path]| {
            let texts = paths.iter().map(|path| path.text().to_owned());
            texts.collect::<Vec<_>>()
        };
        let texts = inputs
            .iter()
            .map(|input| json!([input.path.text(), input.is_summed, input.is_kept]));
        let text = json!({
            "form": 1, "period": settings.period.name(), "time_zone": settings.time_zone.name(), "time": settings.time,
            "group_by": paths(&settings.group_by), "where": settings.r#where, "inputs": texts.collect::<Vec<_>>(),
        });
        Ok(Design {
            calendar: Calendar::new(settings.period, settings.time_zone.zone().clone()),
            time: settings.time(),
            group_by: settings.group_by.clone(),
            condition: condition(settings)?,
            inputs,
            measures,
            text: text.to_string(),
        })
    }

    /// Whether the period of a row is that of a commit.
    pub(crate) fn is_by_commit(&self) -> bool {
        self.time.is_none()
    }

    /// How many columns groups have.
    pub(crate) fn groups(&self) -> &[Path] {
        &self.group_by
    }

    /// What an event counts for; nothing where the condition does not hold.
    pub(crate) fn contribution(
        &self,
        found: &Found<'_>,
        types: &ColumnTypeOf<'_>,
    ) -> Result<Option<Contribution>, Failure> {
        if let Some(condition) = &self.condition {
            let subject = found.subject(types, condition.needs())?;
            match condition.answer(&subject) {
                Judgement::True => {}
                Judgement::False | Judgement::Null | Judgement::Missing => return Ok(None),
                Judgement::Unclear(why) => {
                    return Err(Failure::conversion(format!("where cannot be told: {why}")));
                }
            }
        }
        let mut values = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let value = found.value(&input.path, types)?;
            if input.is_summed && value != Value::Null && value.decimal().is_none() {
                return Err(Failure::conversion(format!(
                    "{} is no number that can be added",
                    input.path.text()
                )));
            }
            values.push(value);
        }
        Ok(Some(Contribution {
            period: self.period(found, types)?,
            group: self.group(found, types)?,
            values,
        }))
    }

    fn period(&self, found: &Found<'_>, types: &ColumnTypeOf<'_>) -> Result<Period, Failure> {
        let Some(path) = &self.time else {
            let commit = found.time_us();
            let period = commit.and_then(|us| self.calendar.period_of(us));
            return period.ok_or_else(|| Failure::undecodable("the event has no time".into()));
        };
        let period = match found.value(path, types)? {
            Value::Null => Some(NO_TIME),
            Value::Text(text) => {
                let of = types(path.name());
                self.calendar.period_of_text(&text, &of)
            }
            Value::Bool(_) | Value::Number(_) => None,
        };
        period.ok_or_else(|| {
            Failure::conversion(format!("{} is no time of the calendar", path.text()))
        })
    }

    fn group(&self, found: &Found<'_>, types: &ColumnTypeOf<'_>) -> Result<String, Failure> {
        let mut group = Vec::with_capacity(self.group_by.len());
        for path in &self.group_by {
            group.push(found.value(path, types)?.json());
        }
        let group = serde_json::Value::Array(group).to_string();
        match group.len() > VALUE_BYTES_MAX {
            true => Err(Failure::conversion(format!(
                "the values of group_by are longer than {VALUE_BYTES_MAX} bytes"
            ))),
            false => Ok(group),
        }
    }

    /// Where it is kept how often an input's value is there, if that is.
    pub(crate) fn kept_value(
        &self,
        topic: TopicNumber,
        counted: &Contribution,
        place: usize,
        value: &Value,
    ) -> Option<Vec<u8>> {
        let input = self.inputs.get(place).filter(|input| input.is_kept)?;
        if *value == Value::Null || !input.is_kept {
            return None;
        }
        let input = u8::try_from(place).ok()?;
        let mut key = keys::values(topic, counted.period, &counted.group, input);
        value.put_ordered(&mut key);
        Some(key)
    }

    /// What an input's value adds to its sum, if there is one.
    pub(crate) fn added_number(&self, place: usize, value: &Value) -> Option<Decimal> {
        let input = self.inputs.get(place)?;
        input.is_summed.then(|| value.decimal()).flatten()
    }
}
