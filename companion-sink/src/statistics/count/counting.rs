//! How a contribution changes the figures.

use crate::error::Result;
use crate::statistics::count::contribution::Contribution;
use crate::statistics::count::design::Design;
use crate::statistics::kept::changes::Changes;
use crate::statistics::kept::codec::{Malformed, Reading, put_u64};
use crate::statistics::kept::keys;
use crate::statistics::kept::keys::TopicNumber;
use crate::statistics::kept::store::damaged;
use crate::statistics::value::Value;

/// Adds a contribution to the figures.
pub(crate) fn add(
    changes: &mut Changes,
    design: &Design,
    topic: TopicNumber,
    counted: &Contribution,
) -> Result<()> {
    let (period, group) = (counted.period, &*counted.group);
    let mut is_new = vec![false; counted.values.len()];
    for (place, value) in counted.values.iter().enumerate() {
        if let Some(key) = design.kept_value(topic, counted, place, value) {
            let count = count_at(changes, &key)?;
            is_new[place] = count == 0;
            changes.set(key, with_value(count + 1, value));
        }
    }
    let cell = changes.cell(keys::cell(topic, period, group), counted.values.len())?;
    cell.rows += 1;
    for (place, (tally, value)) in cell.tallies.iter_mut().zip(&counted.values).enumerate() {
        tally.given += u64::from(*value != Value::Null);
        tally.distinct += u64::from(is_new[place]);
        if let Some(number) = design.added_number(place, value) {
            tally.sum.add(&number);
        }
    }
    Ok(())
}

/// Takes a contribution away from the figures. It must have been added.
pub(crate) fn take(
    changes: &mut Changes,
    design: &Design,
    topic: TopicNumber,
    counted: &Contribution,
) -> Result<()> {
    let (period, group) = (counted.period, &*counted.group);
    let mut is_last = vec![false; counted.values.len()];
    for (place, value) in counted.values.iter().enumerate() {
        if let Some(key) = design.kept_value(topic, counted, place, value) {
            let count = count_at(changes, &key)?;
            let left = count.checked_sub(1).ok_or(Malformed).map_err(damaged)?;
            is_last[place] = left == 0;
            match left {
                0 => changes.remove(key),
                left => changes.set(key, with_value(left, value)),
            }
        }
    }
    let cell = changes.cell(keys::cell(topic, period, group), counted.values.len())?;
    cell.rows = cell.rows.checked_sub(1).ok_or(Malformed).map_err(damaged)?;
    for (place, (tally, value)) in cell.tallies.iter_mut().zip(&counted.values).enumerate() {
        tally.given = tally.given.saturating_sub(u64::from(*value != Value::Null));
        tally.distinct = tally.distinct.saturating_sub(u64::from(is_last[place]));
        if let Some(number) = design.added_number(place, value) {
            tally.sum.subtract(&number);
        }
    }
    Ok(())
}

/// Whether a contribution can be among those that were added: of a table without a key nobody knows.
pub(crate) fn is_there(
    changes: &mut Changes,
    design: &Design,
    topic: TopicNumber,
    counted: &Contribution,
) -> Result<bool> {
    for (place, value) in counted.values.iter().enumerate() {
        if let Some(key) = design.kept_value(topic, counted, place, value)
            && count_at(changes, &key)? == 0
        {
            return Ok(false);
        }
    }
    let key = keys::cell(topic, counted.period, &counted.group);
    Ok(changes.cell(key, counted.values.len())?.rows > 0)
}

/// How often a value is there, and the value as it was seen first.
pub(crate) fn read_value(bytes: &[u8]) -> Result<(u64, Value)> {
    let mut reading = Reading::new(bytes);
    let read = |reading: &mut Reading<'_>| Ok((reading.u64()?, Value::read(reading)?));
    read(&mut reading).map_err(damaged)
}

fn count_at(changes: &Changes, key: &[u8]) -> Result<u64> {
    match changes.get(key)? {
        Some(bytes) => Ok(read_value(&bytes)?.0),
        None => Ok(0),
    }
}

fn with_value(count: u64, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_u64(&mut out, count);
    value.put(&mut out);
    out
}
