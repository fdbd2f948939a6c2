//! Pages of a list of events that are refused, or wait: in the order of sinks, topics, partitions and offsets.

use crate::error::{Result, misconfigured};
use crate::kafka::record::Record;

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Page {
    /// What came last.
    pub(crate) after: Option<PageCursor>,
    /// How many there may be.
    pub(crate) limit: usize,
}

/// Where an event is in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageCursor {
    sink: String,
    /// In the sink's part.
    pub(crate) at: At,
}

/// Where an event is in the part of its sink.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// What a page has of one sink.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PagePart {
    /// It came before.
    Nothing,
    /// So many, behind a place if there is one.
    Some(Option<At>, usize),
}

impl At {
    /// That of a record.
    pub(crate) fn of(record: &Record) -> At {
        At {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
        }
    }
}

impl PageCursor {
    /// That of a record which `sink` refused.
    pub(crate) fn of(sink: &str, record: &Record) -> PageCursor {
        PageCursor {
            sink: sink.to_owned(),
            at: At::of(record),
        }
    }

    /// As [`PageCursor::text`] wrote it.
    pub(crate) fn parse(text: &str) -> Result<PageCursor> {
        let wrong = || {
            misconfigured(
                "\"after\" is no place in the list",
                "Give it what \"next\" of the page before says.",
            )
        };
        let mut parts = text.splitn(4, ':');
        let mut next = || parts.next().ok_or_else(wrong);
        let (offset, partition) = (next()?, next()?);
        let (topic, sink) = (next()?.to_owned(), next()?.to_owned());
        Ok(PageCursor {
            sink,
            at: At {
                topic,
                partition: partition.parse().map_err(|_| wrong())?,
                offset: offset.parse().map_err(|_| wrong())?,
            },
        })
    }

    /// To be given back.
    pub(crate) fn text(&self) -> String {
        let At {
            topic,
            partition,
            offset,
        } = &self.at;
        format!("{offset}:{partition}:{topic}:{}", self.sink)
    }
}

impl Page {
    /// Whether it begins before a record of `sink`.
    pub(crate) fn begins_before(&self, sink: &str, record: &Record) -> bool {
        let is_behind = |after: &PageCursor| (sink, &At::of(record)) > (&*after.sink, &after.at);
        self.after.as_ref().is_none_or(is_behind)
    }

    /// What it has of `sink`.
    pub(crate) fn part_of(&self, sink: &str) -> PagePart {
        match &self.after {
            Some(after) if *after.sink > *sink => PagePart::Nothing,
            Some(after) if after.sink == sink => PagePart::Some(Some(after.at.clone()), self.limit),
            _ => PagePart::Some(None, self.limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back() {
        let record = Record::new("a.b".into(), 2, 77, None, None, std::iter::empty());
        let place = PageCursor::of("with:colon", &record);
        assert_eq!(PageCursor::parse(&place.text()).unwrap(), place);
        for wrong in ["", "1:2:t", "x:1:t:s", "1:y:t:s"] {
            assert!(PageCursor::parse(wrong).is_err(), "{wrong}");
        }
        let page = Page {
            after: Some(place),
            limit: 3,
        };
        let later = Record::new("a.b".into(), 2, 78, None, None, std::iter::empty());
        assert!(page.begins_before("with:colon", &later) && page.begins_before("x", &record));
        assert!(!page.begins_before("with:colon", &record) && !page.begins_before("a", &later));
        assert_eq!(page.part_of("a"), PagePart::Nothing);
        assert_eq!(page.part_of("x"), PagePart::Some(None, 3));
    }
}
