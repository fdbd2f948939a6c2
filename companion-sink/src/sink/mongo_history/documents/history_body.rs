//! What the history needs of an event's body, and what documents say of it.

use std::borrow::Cow;

use mongodb::bson::{RawBson, RawDocumentBuf, rawdoc};
use serde::Deserialize;

use crate::event::image::Image;
use crate::event::json::{Malformed, Text};
use crate::event::{Headers, Op, TableName, parse_body};
use crate::kafka::record::Record;
use crate::sink::mongo_history::documents::bson_value::{Names, document};
use crate::sink::mongo_history::identity::told::Name;
use crate::timestamp::rfc3339;

/// What the history needs of an event's body.
#[derive(Deserialize)]
pub(crate) struct HistoryBody<'a> {
    ts_us: Option<i64>,
    #[serde(borrow)]
    source: BodySource<'a>,
    #[serde(borrow)]
    transaction: Option<Transaction<'a>>,
    #[serde(borrow, default)]
    audit: Audit<'a>,
    #[serde(borrow)]
    marks: Option<Marks<'a>>,
    #[serde(borrow)]
    pub(super) before: Option<Image<'a>>,
    #[serde(borrow)]
    pub(super) after: Option<Image<'a>>,
}

#[derive(Deserialize)]
struct BodySource<'a> {
    #[serde(borrow)]
    db: Cow<'a, str>,
    #[serde(borrow)]
    schema: Cow<'a, str>,
    #[serde(borrow)]
    table: Cow<'a, str>,
    ts_us: Option<i64>,
    #[serde(rename = "txId")]
    xid: Option<i64>,
    lsn: Option<u64>,
}

#[derive(Deserialize)]
struct Transaction<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    total_order: Option<i64>,
    event_count: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Audit<'a> {
    #[serde(borrow)]
    actor: Option<Text<'a>>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
    #[serde(borrow)]
    request_id: Option<Text<'a>>,
    #[serde(borrow)]
    session_user: Option<Text<'a>>,
    #[serde(borrow)]
    current_user: Option<Text<'a>>,
    #[serde(borrow)]
    application_name: Option<Text<'a>>,
    #[serde(borrow)]
    client_addr: Option<Text<'a>>,
    pid: Option<i64>,
    transaction_ts_us: Option<i64>,
    statement_ts_us: Option<i64>,
    #[serde(borrow)]
    context: Option<Image<'a>>,
}

#[derive(Deserialize)]
struct Marks<'a> {
    #[serde(borrow)]
    before: Option<Image<'a>>,
    #[serde(borrow)]
    after: Option<Image<'a>>,
    /// `left` or `entered`, of an update by which the row crossed the table's filter.
    #[serde(borrow)]
    filter: Option<Cow<'a, str>>,
}

impl<'a> HistoryBody<'a> {
    /// Parses an event's body; the images that its operation needs must be there.
    pub(crate) fn parse(record: &'a Record, op: Op) -> Result<Self, Malformed> {
        let body: HistoryBody<'a> = parse_body(record)?;
        let complete = match op {
            Op::Create | Op::Update | Op::Read => body.after.is_some(),
            Op::Delete => body.before.is_some(),
            _ => true,
        };
        if complete {
            Ok(body)
        } else {
            Err(Malformed("the row's image is missing".into()))
        }
    }

    /// What the table is called.
    pub(crate) fn name(&self, headers: &Headers<'_>) -> Name {
        Name {
            from: String::new(),
            header: headers.table.to_owned(),
            database: self.source.db.clone().into_owned(),
            schema: self.source.schema.clone().into_owned(),
            table: self.source.table.clone().into_owned(),
        }
    }

    /// The table that it names.
    pub(crate) fn table_name(&self) -> TableName<'_> {
        TableName {
            db: Cow::Borrowed(&self.source.db),
            schema: Cow::Borrowed(&self.source.schema),
            table: Cow::Borrowed(&self.source.table),
        }
    }

    /// The row before the change, or as it is where there is only that.
    pub(crate) fn known_image(&self) -> Option<&Image<'a>> {
        self.before.as_ref().or(self.after.as_ref())
    }

    /// When the change was committed, microseconds since 1970.
    pub(super) fn commit_us(&self) -> Option<i64> {
        self.source.ts_us
    }

    pub(super) fn is_masked(&self, column: &str) -> bool {
        let Some(marks) = &self.marks else {
            return false;
        };
        let hides = |image: &Option<Image<'_>>| {
            let mark = image.as_ref().and_then(|image| image.get(column));
            matches!(
                mark.map(|mark| mark.get()),
                Some("\"hashed\"" | "\"redacted\"")
            )
        };
        hides(&marks.before) || hides(&marks.after)
    }

    pub(super) fn marks(&self, names: Names) -> Result<RawBson, Malformed> {
        let Some(marks) = &self.marks else {
            return Ok(RawBson::Null);
        };
        let mut out = rawdoc! {
            "before": optional_document(marks.before.as_ref(), names)?,
            "after": optional_document(marks.after.as_ref(), names)?,
        };
        if let Some(filter) = &marks.filter {
            out.append("filter", filter.as_ref());
        }
        Ok(RawBson::Document(out))
    }

    pub(super) fn who(&self) -> RawDocumentBuf {
        let audit = &self.audit;
        rawdoc! {
            "actor": text(&audit.actor),
            "session_user": text(&audit.session_user),
            "current_user": text(&audit.current_user),
            "application_name": text(&audit.application_name),
            "client_addr": text(&audit.client_addr),
            "pid": whole(audit.pid),
        }
    }

    pub(super) fn why(&self, names: Names) -> Result<RawDocumentBuf, Malformed> {
        Ok(rawdoc! {
            "reason": text(&self.audit.reason),
            "request_id": text(&self.audit.request_id),
            "context": optional_document(self.audit.context.as_ref(), names)?,
        })
    }

    pub(super) fn when(&self) -> RawDocumentBuf {
        let moment = |us: Option<i64>| us.map_or(RawBson::Null, |us| RawBson::String(rfc3339(us)));
        let commit = moment(self.source.ts_us);
        rawdoc! {
            "transaction": moment(self.audit.transaction_ts_us),
            "statement": moment(self.audit.statement_ts_us),
            "commit": commit.clone(),
            "effective": commit,
            "observed": moment(self.ts_us),
        }
    }

    pub(super) fn transaction(&self) -> RawDocumentBuf {
        let transaction = self.transaction.as_ref();
        let lsn = self
            .source
            .lsn
            .map(|lsn| format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff));
        rawdoc! {
            "id": optional_text(transaction.map(|transaction| transaction.id.as_ref())),
            "xid": whole(self.source.xid),
            "lsn": optional_text(lsn.as_deref()),
            "total_order": whole(transaction.and_then(|transaction| transaction.total_order)),
            "event_count": whole(transaction.and_then(|transaction| transaction.event_count)),
        }
    }
}

fn optional_document(image: Option<&Image<'_>>, names: Names) -> Result<RawBson, Malformed> {
    match image {
        Some(image) => Ok(RawBson::Document(document(image, names)?)),
        None => Ok(RawBson::Null),
    }
}

pub(super) fn optional_text(text: Option<&str>) -> RawBson {
    text.map_or(RawBson::Null, |text| RawBson::String(text.to_owned()))
}

fn text(text: &Option<Text<'_>>) -> RawBson {
    optional_text(text.as_ref().map(|Text(text)| text.as_ref()))
}

/// A whole number as the smaller type that holds it, as the values of rows.
pub(super) fn whole(number: Option<i64>) -> RawBson {
    match number {
        None => RawBson::Null,
        Some(number) => match i32::try_from(number) {
            Ok(small) => RawBson::Int32(small),
            Err(_) => RawBson::Int64(number),
        },
    }
}
