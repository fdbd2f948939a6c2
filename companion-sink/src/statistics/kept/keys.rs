//! The keys of the store. The first byte says what is there; what belongs together is next to each other.

use crate::statistics::calendar::Period;
use crate::statistics::kept::codec::{Malformed, Reading};

/// What is counted: another one under the same name is a mistake.
pub(crate) const DESIGN: &[u8] = b"f";
const TOPIC: u8 = b't';
const POSITION: u8 = b'p';
const DEFINITION: u8 = b'd';
const SNAPSHOT: u8 = b's';
const KEPT: u8 = b'k';
const ROW: u8 = b'r';
const CELL: u8 = b'c';
const VALUE: u8 = b'v';

/// Stands for a topic in the keys of its rows.
pub(crate) type TopicNumber = u16;

fn of_topic(kind: u8, topic: TopicNumber) -> Vec<u8> {
    let [high, low] = topic.to_be_bytes();
    vec![kind, high, low]
}

/// The number of a topic.
pub(crate) fn topic(name: &str) -> Vec<u8> {
    [&[TOPIC], name.as_bytes()].concat()
}

/// All topics that have numbers.
pub(crate) fn topics() -> Vec<u8> {
    vec![TOPIC]
}

/// The name of a topic, of its key.
pub(crate) fn topic_name(key: &[u8]) -> Result<&str, Malformed> {
    let name = key.get(1..).ok_or(Malformed)?;
    std::str::from_utf8(name).map_err(|_| Malformed)
}

/// How far a partition is.
pub(crate) fn position(topic: TopicNumber, partition: i32) -> Vec<u8> {
    let mut key = of_topic(POSITION, topic);
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

/// The types of a topic's columns.
pub(crate) fn definition(topic: TopicNumber) -> Vec<u8> {
    of_topic(DEFINITION, topic)
}

/// The snapshot that is under way.
pub(crate) fn snapshot(topic: TopicNumber) -> Vec<u8> {
    of_topic(SNAPSHOT, topic)
}

/// A row that a snapshot left out though it is there.
pub(crate) fn kept(topic: TopicNumber, row: &[u8]) -> Vec<u8> {
    let mut key = of_topic(KEPT, topic);
    key.extend_from_slice(row);
    key
}

/// What a row counts for.
pub(crate) fn row(topic: TopicNumber, row: &[u8]) -> Vec<u8> {
    let mut key = of_topic(ROW, topic);
    key.extend_from_slice(row);
    key
}

/// The row's own key, of a key of [`row`].
pub(crate) fn row_of(key: &[u8]) -> &[u8] {
    key.get(3..).unwrap_or_default()
}

/// A number that sorts as it does.
fn sorted(period: Period) -> [u8; 8] {
    (period as u64 ^ (1 << 63)).to_be_bytes()
}

/// The figures of a period and group, those of each topic.
pub(crate) fn cell(topic: TopicNumber, period: Period, group: &str) -> Vec<u8> {
    let mut key = cells_from(period);
    key.extend_from_slice(group.as_bytes());
    // JSON has no zero byte.
    key.push(0);
    key.extend_from_slice(&topic.to_be_bytes());
    key
}

/// The first cell of a period, and those before which all earlier periods are.
pub(crate) fn cells_from(period: Period) -> Vec<u8> {
    let mut key = vec![CELL];
    key.extend_from_slice(&sorted(period));
    key
}

/// All cells.
pub(crate) fn cells() -> Vec<u8> {
    vec![CELL]
}

/// Period, group and topic of a cell's key.
pub(crate) fn cell_of(key: &[u8]) -> Result<(Period, &str, TopicNumber), Malformed> {
    let mut reading = Reading::new(key.get(1..).ok_or(Malformed)?);
    let period = (reading.u64()? ^ (1 << 63)) as Period;
    let rest = &key[9..];
    let (group, topic) = rest
        .split_at_checked(rest.len().wrapping_sub(3))
        .ok_or(Malformed)?;
    let group = std::str::from_utf8(group).map_err(|_| Malformed)?;
    let topic: [u8; 2] = topic[1..].try_into().map_err(|_| Malformed)?;
    Ok((period, group, TopicNumber::from_be_bytes(topic)))
}

/// The values of an input in a cell.
pub(crate) fn values(topic: TopicNumber, period: Period, group: &str, input: u8) -> Vec<u8> {
    let mut key = of_topic(VALUE, topic);
    key.extend_from_slice(&sorted(period));
    key.extend_from_slice(group.as_bytes());
    key.extend([0, input]);
    key
}

/// Everything of a topic that a truncate takes away, but for its cells, which lie among those of other topics.
pub(crate) fn contents(topic: TopicNumber) -> [Vec<u8>; 3] {
    [ROW, VALUE, KEPT].map(|kind| of_topic(kind, topic))
}

/// The rows that a snapshot left out.
pub(crate) fn all_kept(topic: TopicNumber) -> Vec<u8> {
    of_topic(KEPT, topic)
}

/// All rows of a topic.
pub(crate) fn rows(topic: TopicNumber) -> Vec<u8> {
    of_topic(ROW, topic)
}

/// The first key behind all that begin so.
pub(crate) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_in_the_order_of_periods_and_read_back() {
        let keys = [
            cell(7, i64::MIN, "[]"),
            cell(7, -3600, "[\"a\"]"),
            cell(8, -3600, "[\"a\"]"),
            cell(1, 0, "[]"),
            cell(1, 3600, "[]"),
        ];
        assert!(keys.is_sorted());
        assert_eq!(cell_of(&keys[2]), Ok((-3600, "[\"a\"]", 8)));
        assert!(cells_from(0) <= keys[3] && cells_from(0) > keys[2]);
        assert_eq!(cell_of(b"c"), Err(Malformed));
        assert_eq!(behind(b"ab"), b"ac");
        assert_eq!(behind(&[b'a', u8::MAX]), b"b");
    }
}
