//! Answers what the figures are.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value as Json};

use crate::config::nearest;
use crate::config::statistics::measure::Function;
use crate::error::{Result, misconfigured};
use crate::statistics::calendar::{NO_TIME, Period};
use crate::statistics::count::counting::read_value;
use crate::statistics::count::design::Design;
use crate::statistics::decimal::Decimal;
use crate::statistics::kept::cell::Cell;
use crate::statistics::kept::codec::Malformed;
use crate::statistics::kept::keys;
use crate::statistics::kept::keys::TopicNumber;
use crate::statistics::kept::store::{Snapshot, damaged};

/// Rows of an answer, unless another number is asked for, and at most.
const LIMIT: usize = 1000;
const LIMIT_MAX: usize = 10_000;

/// Which figures are asked for.
#[derive(Debug)]
pub(crate) struct Question {
    from: Vec<u8>,
    to: Vec<u8>,
    /// Columns of groups and what is to stand there.
    groups: Vec<(usize, String)>,
    limit: usize,
}

/// A part of an answer.
pub(crate) struct Page {
    /// The figures of a period and group each.
    pub(crate) rows: Vec<Map<String, Json>>,
    /// What the next question names as `after`; none where nothing follows.
    pub(crate) next: Option<String>,
}

/// The cells of a period and group, by topic.
struct Found {
    period: Period,
    group: String,
    cells: Vec<(TopicNumber, Cell)>,
}

impl Question {
    /// Reads the parameters of a question: from, to, group (`column=value`, any number), limit, after.
    pub(crate) fn parse<'p>(
        design: &Design,
        parameters: impl Iterator<Item = (&'p str, &'p str)>,
    ) -> Result<Question> {
        const KNOWN: [&str; 5] = ["from", "to", "group", "limit", "after"];
        let mut question = Question {
            from: keys::cells(),
            to: keys::behind(&keys::cells()),
            groups: Vec::new(),
            limit: LIMIT,
        };
        let mut after = None;
        let mut is_bounded = false;
        for (name, text) in parameters {
            match name {
                "from" => {
                    let us = moment_us(design, text)?;
                    let period = design.calendar.period_of(us).unwrap_or(NO_TIME + 1);
                    question.from = keys::cells_from(period);
                    is_bounded = true;
                }
                "to" => {
                    let us = moment_us(design, text)?;
                    let second = us.div_euclid(1_000_000) + i64::from(us.rem_euclid(1_000_000) > 0);
                    question.to = keys::cells_from(second);
                    is_bounded = true;
                }
                "group" => question.groups.push(group(design, text)?),
                "limit" => {
                    let limit: Option<usize> = text.parse().ok().filter(|limit| *limit > 0);
                    question.limit = limit
                        .ok_or_else(|| {
                            misconfigured(
                                format!("limit takes a whole number from 1 on, not \"{text}\""),
                                format!("At most {LIMIT_MAX} rows are answered at once."),
                            )
                        })?
                        .min(LIMIT_MAX);
                }
                "after" => after = Some(URL_SAFE_NO_PAD.decode(text).ok()),
                name => {
                    let near = nearest(name, KNOWN.into_iter());
                    let meant =
                        near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
                    return Err(misconfigured(
                        format!("unknown parameter \"{name}\"{meant}"),
                        format!("Known: {}.", KNOWN.join(", ")),
                    ));
                }
            }
        }
        if is_bounded {
            question.from = question.from.max(keys::cells_from(NO_TIME + 1));
        }
        if let Some(after) = after {
            let after = after.ok_or_else(|| {
                misconfigured(
                    "after is not one of an answer",
                    "Take `next` of the answer before.",
                )
            })?;
            question.from = question.from.max(keys::behind(&after));
        }
        Ok(question)
    }

    /// Answers with what is there now.
    pub(crate) fn ask(&self, design: &Design, store: &Snapshot) -> Result<Page> {
        let mut page = Page {
            rows: Vec::new(),
            next: None,
        };
        if self.from >= self.to {
            return Ok(page);
        }
        let mut open: Option<Found> = None;
        for found in store.between(&self.from, &self.to)? {
            let (key, value) = found?;
            let (period, group, topic) = keys::cell_of(&key).map_err(damaged)?;
            let cell = Cell::read(&value).map_err(damaged)?;
            match &mut open {
                Some(open) if open.period == period && open.group == group => {
                    open.cells.push((topic, cell));
                }
                _ => {
                    let next = Found {
                        period,
                        group: group.to_owned(),
                        cells: vec![(topic, cell)],
                    };
                    if let Some(done) = open.replace(next) {
                        self.put(&mut page, design, store, &done)?;
                    }
                    if page.rows.len() >= self.limit {
                        return Ok(page);
                    }
                }
            }
        }
        if let Some(done) = open {
            self.put(&mut page, design, store, &done)?;
        }
        page.next = None;
        Ok(page)
    }

    fn put(&self, page: &mut Page, design: &Design, store: &Snapshot, found: &Found) -> Result<()> {
        let group: Vec<Json> =
            serde_json::from_str(&found.group).map_err(|_| damaged(Malformed))?;
        let is_wanted = self.groups.iter().all(|(place, wanted)| {
            let text = group.get(*place).map(|value| match value {
                Json::String(text) => text.clone(),
                other => other.to_string(),
            });
            text.as_ref() == Some(wanted)
        });
        if !is_wanted {
            return Ok(());
        }
        let mut row = Map::new();
        let period = design.calendar.name(found.period);
        row.insert("period".into(), period.map_or(Json::Null, Json::from));
        for (path, value) in design.groups().iter().zip(group) {
            row.insert(path.name().to_owned(), value);
        }
        for (measure, input) in &design.measures {
            let figure = figure(measure.function, *input, store, found)?;
            row.insert(measure.name.clone(), figure);
        }
        page.rows.push(row);
        let (topic, _) = found.cells[0];
        let mut place = keys::cell(topic, found.period, &found.group);
        // That of all topics.
        place.truncate(place.len() - 2);
        page.next = Some(URL_SAFE_NO_PAD.encode(&place));
        Ok(())
    }
}

/// Moments without a zone are those of the sink's calendar.
fn moment_us(design: &Design, text: &str) -> Result<i64> {
    design.calendar.moment_us(text).ok_or_else(|| {
        misconfigured(
            format!("\"{text}\" is no time"),
            "Write 2026-11, 2026-11-21, 2026-11-21T10:40 or 2026-11-21T10:40:00+01:00.",
        )
    })
}

fn group(design: &Design, text: &str) -> Result<(usize, String)> {
    let names: Vec<&str> = design.groups().iter().map(|path| path.name()).collect();
    let known = || format!("The sink has group_by {}.", names.join(", "));
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| misconfigured(format!("\"{text}\" is not column=value"), known()))?;
    match names.iter().position(|known| *known == name) {
        Some(place) => Ok((place, value.to_owned())),
        None => {
            let near = nearest(name, names.iter().copied());
            let meant = near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
            Err(misconfigured(
                format!("no column \"{name}\" of a group{meant}"),
                known(),
            ))
        }
    }
}

fn figure(
    function: Function,
    input: Option<usize>,
    store: &Snapshot,
    found: &Found,
) -> Result<Json> {
    let Some(input) = input else {
        let rows: u64 = found.cells.iter().map(|(_, cell)| cell.rows).sum();
        return Ok(rows.into());
    };
    let tallies = || {
        let cells = found.cells.iter();
        cells.filter_map(|(_, cell)| cell.tallies.get(input))
    };
    let given: u64 = tallies().map(|tally| tally.given).sum();
    let sum = || {
        let mut sum = Decimal::default();
        tallies().for_each(|tally| sum.add(&tally.sum));
        sum
    };
    Ok(match function {
        Function::Count => given.into(),
        Function::Distinct => distinct(input, store, found)?.into(),
        _ if given == 0 => Json::Null,
        Function::Sum => sum().to_string().into(),
        Function::Average => sum().divided_by(given).to_string().into(),
        Function::Min | Function::Max => extreme(function == Function::Min, input, store, found)?,
    })
}

fn prefix(input: usize, topic: TopicNumber, found: &Found) -> Vec<u8> {
    // There are not more of them.
    let input = u8::try_from(input).unwrap_or(u8::MAX);
    keys::values(topic, found.period, &found.group, input)
}

/// The lowest or highest value, over all topics.
fn extreme(is_lowest: bool, input: usize, store: &Snapshot, found: &Found) -> Result<Json> {
    let mut best: Option<(Vec<u8>, Vec<u8>)> = None;
    for (topic, _) in &found.cells {
        let prefix = prefix(input, *topic, found);
        let Some([first, last]) = store.ends(&prefix)? else {
            continue;
        };
        let (key, value) = if is_lowest { first } else { last };
        let ordered = key[prefix.len()..].to_vec();
        let is_better = best.as_ref().is_none_or(|(known, _)| match is_lowest {
            true => ordered < *known,
            false => ordered > *known,
        });
        if is_better {
            best = Some((ordered, value));
        }
    }
    match best {
        Some((_, value)) => Ok(read_value(&value)?.1.json()),
        None => Ok(Json::Null),
    }
}

/// How many different values; those that several topics have count once.
fn distinct(input: usize, store: &Snapshot, found: &Found) -> Result<u64> {
    if let [(_, cell)] = found.cells.as_slice() {
        return Ok(cell.tallies.get(input).map_or(0, |tally| tally.distinct));
    }
    let mut seen = BTreeSet::new();
    for (topic, _) in &found.cells {
        let prefix = prefix(input, *topic, found);
        store.each(&prefix, |key, _| {
            seen.insert(key[prefix.len()..].to_vec());
            Ok(())
        })?;
    }
    Ok(seen.len() as u64)
}
