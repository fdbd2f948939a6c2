//! What a row or an event counts for.

use crate::statistics::calendar::Period;
use crate::statistics::kept::codec::{Malformed, Reading, put_bytes, put_i64};
use crate::statistics::value::Value;

/// What a row or an event counts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contribution {
    /// In which period.
    pub(crate) period: Period,
    /// In which group: a JSON array.
    pub(crate) group: String,
    /// The value of each input.
    pub(crate) values: Vec<Value>,
}

/// A row that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CountedRow {
    /// The version of the event that brought it here.
    pub(crate) version: String,
    /// What it counts for.
    pub(crate) contribution: Contribution,
}

impl CountedRow {
    /// As the store has it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, self.version.as_bytes());
        put_i64(&mut out, self.contribution.period);
        put_bytes(&mut out, self.contribution.group.as_bytes());
        for value in &self.contribution.values {
            value.put(&mut out);
        }
        out
    }

    /// Reads what `bytes` wrote.
    pub(crate) fn read(bytes: &[u8]) -> Result<CountedRow, Malformed> {
        let mut reading = Reading::new(bytes);
        let version = reading.text()?.to_owned();
        let period = reading.i64()?;
        let group = reading.text()?.to_owned();
        let mut values = Vec::new();
        while !reading.is_empty() {
            values.push(Value::read(&mut reading)?);
        }
        let contribution = Contribution {
            period,
            group,
            values,
        };
        Ok(CountedRow {
            version,
            contribution,
        })
    }
}
