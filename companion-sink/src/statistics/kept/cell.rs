//! The figures of a period and group.

use crate::statistics::decimal::Decimal;
use crate::statistics::kept::codec::{Malformed, Reading, put_u64};

/// The figures of a period and group, of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    /// How many rows.
    pub(crate) rows: u64,
    /// What is known of each input.
    pub(crate) tallies: Vec<Tally>,
}

/// What is known of the values at one path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// How many there are that are not NULL.
    pub(crate) given: u64,
    /// How many different ones, where these are kept.
    pub(crate) distinct: u64,
    /// All added, where some measure asks for it.
    pub(crate) sum: Decimal,
}

impl Cell {
    /// One without rows.
    pub(crate) fn new(inputs: usize) -> Cell {
        Cell {
            rows: 0,
            tallies: vec![Tally::default(); inputs],
        }
    }

    /// As the store has it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u64(&mut out, self.rows);
        for tally in &self.tallies {
            put_u64(&mut out, tally.given);
            put_u64(&mut out, tally.distinct);
            tally.sum.put(&mut out);
        }
        out
    }

    /// Reads what `bytes` wrote.
    pub(crate) fn read(bytes: &[u8]) -> Result<Cell, Malformed> {
        let mut reading = Reading::new(bytes);
        let rows = reading.u64()?;
        let mut tallies = Vec::new();
        while !reading.is_empty() {
            tallies.push(Tally {
                given: reading.u64()?,
                distinct: reading.u64()?,
                sum: Decimal::read(&mut reading)?,
            });
        }
        Ok(Cell { rows, tallies })
    }
}
