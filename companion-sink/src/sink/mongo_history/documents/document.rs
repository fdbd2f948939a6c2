//! The document of one change: only facts that never change afterwards, so that writing it again changes nothing.

use std::borrow::Cow;

use mongodb::bson::{Bson, DateTime, Document, RawBson, RawDocumentBuf, doc, rawdoc};
use serde::Deserialize;

use crate::event::Headers;
use crate::event::Op;
use crate::event::TableName;
use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::event::json::Text;
use crate::event::parse_body;
use crate::kafka::record::Record;
use crate::sink::mongo_history::documents::bson_value::{Names, document, document_of};
use crate::sink::mongo_history::documents::column_types::ColumnTypes;
use crate::sink::mongo_history::documents::diff::diff;
use crate::sink::mongo_history::identity::told::Name;
use crate::timestamp::rfc3339;

/// The operation of a row that a snapshot did not find.
pub(crate) const INFERRED_DELETE: &str = "inferred delete";

/// What the history needs of an event's body.
#[derive(Deserialize)]
pub(crate) struct Body<'a> {
    ts_us: Option<i64>,
    #[serde(borrow)]
    source: Source<'a>,
    #[serde(borrow)]
    transaction: Option<Transaction<'a>>,
    #[serde(borrow, default)]
    audit: Audit<'a>,
    #[serde(borrow)]
    marks: Option<Marks<'a>>,
    #[serde(borrow)]
    before: Option<Image<'a>>,
    #[serde(borrow)]
    after: Option<Image<'a>>,
}

#[derive(Deserialize)]
struct Source<'a> {
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

impl<'a> Body<'a> {
    /// Parses an event's body; the images that its operation needs must be there.
    pub(crate) fn parse(record: &'a Record, op: Op) -> Result<Self, Malformed> {
        let body: Body<'a> = parse_body(record)?;
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

    /// The document of this event, of a row that the history calls `entity`.
    pub(crate) fn document(
        &self,
        record: &Record,
        headers: &Headers<'_>,
        entity: &str,
        source_name: &str,
        definition: Option<(&str, &ColumnTypes)>,
        names: Names,
    ) -> Result<RawDocumentBuf, Malformed> {
        let types = definition.map(|(_, types)| types);
        let key_of = |json: Option<&str>| match json {
            Some(json) => {
                let image = Image::parse(json.as_bytes())?;
                Ok(RawBson::Document(document_of(&image, types, names)?))
            }
            None => Ok(RawBson::Null),
        };
        let key = key_of(identity(record, headers))?;
        let previous_key = key_of(headers.old_key)?;
        let mut doc = rawdoc! {
            "_id": headers.id,
            "entity": entity,
            "key": key,
            "previous_key": previous_key,
            "op": operation(headers.op),
            "version": headers.version,
        };
        for (field, image) in [("before", &self.before), ("after", &self.after)] {
            doc.append(
                field,
                match image {
                    Some(image) => RawBson::Document(document_of(image, types, names)?),
                    None => RawBson::Null,
                },
            );
        }
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => {
                doc.append(
                    "diff",
                    diff(before, after, types, |name| self.is_masked(name), names)?,
                );
            }
            _ => doc.append("diff", mongodb::bson::RawArrayBuf::new()),
        }
        doc.append("marks", self.marks(names)?);
        doc.append(
            "schema",
            optional_text(definition.map(|(version, _)| version)),
        );
        self.append_circumstances(&mut doc, record, headers, source_name, names)?;
        Ok(doc)
    }

    /// The document that says that a row is gone, for this event, the end of a snapshot, has not met it. `last` is the newest
    /// document of its entity; none if that says so already.
    pub(crate) fn inferred_delete(
        &self,
        record: &Record,
        headers: &Headers<'_>,
        source_name: &str,
        names: Names,
        last: &Document,
    ) -> Result<Option<RawDocumentBuf>, Malformed> {
        let there = matches!(last.get_str("op"), Ok("create" | "update" | "snapshot"));
        let (Ok(entity), Ok(image), true) =
            (last.get_str("entity"), last.get_document("after"), there)
        else {
            return Ok(None);
        };
        let of_last = |field: &str| last.get(field).cloned().unwrap_or(Bson::Null);
        let marks = match last.get_document("marks") {
            Ok(marks) => {
                let after = marks.get("after").cloned().unwrap_or(Bson::Null);
                Bson::Document(doc! { "before": after, "after": Bson::Null })
            }
            Err(_) => Bson::Null,
        };
        let facts = doc! {
            "_id": format!("{}:{entity}", headers.id),
            "entity": entity,
            "key": of_last("key"),
            "previous_key": Bson::Null,
            "op": INFERRED_DELETE,
            "version": headers.version,
            "before": image,
            "after": Bson::Null,
            "diff": [],
            "marks": marks,
            "schema": of_last("schema"),
        };
        let mut doc = RawDocumentBuf::try_from(&facts)
            .map_err(|_| Malformed("the last image cannot be written".into()))?;
        self.append_circumstances(&mut doc, record, headers, source_name, names)?;
        Ok(Some(doc))
    }

    /// Who, why, when and where the event is from.
    fn append_circumstances(
        &self,
        doc: &mut RawDocumentBuf,
        record: &Record,
        headers: &Headers<'_>,
        source_name: &str,
        names: Names,
    ) -> Result<(), Malformed> {
        doc.append("who", self.who());
        doc.append("why", self.why(names)?);
        doc.append("when", self.when());
        let commit_time = self
            .source
            .ts_us
            .map(|us| DateTime::from_millis(us.div_euclid(1000)));
        doc.append(
            "commit_time",
            commit_time.map_or(RawBson::Null, RawBson::DateTime),
        );
        doc.append("transaction", self.transaction());
        doc.append("source", source(record, headers, source_name));
        Ok(())
    }

    fn is_masked(&self, column: &str) -> bool {
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

    fn marks(&self, names: Names) -> Result<RawBson, Malformed> {
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

    fn who(&self) -> RawDocumentBuf {
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

    fn why(&self, names: Names) -> Result<RawDocumentBuf, Malformed> {
        Ok(rawdoc! {
            "reason": text(&self.audit.reason),
            "request_id": text(&self.audit.request_id),
            "context": optional_document(self.audit.context.as_ref(), names)?,
        })
    }

    fn when(&self) -> RawDocumentBuf {
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

    fn transaction(&self) -> RawDocumentBuf {
        let transaction = self.transaction.as_ref();
        let lsn = self
            .source
            .lsn
            .map(|lsn| format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff));
        rawdoc! {
            "id": optional_text(transaction.map(|transaction| transaction.id.as_ref())),
            "xid": whole(self.source.xid),
            "lsn": optional_text(lsn.as_deref()),
            "position": whole(transaction.and_then(|transaction| transaction.total_order)),
            "of": whole(transaction.and_then(|transaction| transaction.event_count)),
        }
    }
}

/// The row's identity as JSON: the header, else the record's key. Control events have none.
pub(crate) fn identity<'a>(record: &'a Record, headers: &Headers<'a>) -> Option<&'a str> {
    if !headers.op.is_row() {
        return None;
    }
    headers
        .identity
        .or_else(|| std::str::from_utf8(record.key()?).ok())
}

fn operation(op: Op) -> &'static str {
    match op {
        Op::Create => "create",
        Op::Update => "update",
        Op::Delete => "delete",
        Op::Read => "snapshot",
        Op::Truncate => "truncate",
        Op::Tombstone | Op::Schema | Op::Snapshot | Op::Emit => "none",
    }
}

fn source(record: &Record, headers: &Headers<'_>, name: &str) -> RawDocumentBuf {
    let hex = |range: std::ops::Range<usize>| {
        let part = headers.version.get(range);
        let number = part.and_then(|part| i64::from_str_radix(part, 16).ok());
        whole(number)
    };
    rawdoc! {
        "name": name,
        "generation": hex(0..4),
        "timeline": hex(5..13),
        "topic": &*record.topic,
        "partition": record.partition,
        "offset": record.offset,
    }
}

fn optional_document(image: Option<&Image<'_>>, names: Names) -> Result<RawBson, Malformed> {
    match image {
        Some(image) => Ok(RawBson::Document(document(image, names)?)),
        None => Ok(RawBson::Null),
    }
}

fn optional_text(text: Option<&str>) -> RawBson {
    text.map_or(RawBson::Null, |text| RawBson::String(text.to_owned()))
}

fn text(text: &Option<Text<'_>>) -> RawBson {
    optional_text(text.as_ref().map(|Text(text)| text.as_ref()))
}

/// A whole number as the smaller type that holds it, as the values of rows.
fn whole(number: Option<i64>) -> RawBson {
    match number {
        None => RawBson::Null,
        Some(number) => match i32::try_from(number) {
            Ok(small) => RawBson::Int32(small),
            Err(_) => RawBson::Int64(number),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPDATE: &str = r#"{"id":"5b1f-1","op":"u","ts_ms":1795257600125,"ts_us":1795257600125311,
        "source":{"version":"1.0.0","connector":"postgresql","name":"shop","db":"shop","ts_us":1795257600123456,
        "schema":"public","table":"customer","txId":812,"lsn":22687896,"xmin":null},
        "transaction":{"id":"812:22687896","total_order":1,"data_collection_order":1,"event_count":2},
        "audit":{"actor":"ann","reason":"moved to Bern","request_id":"r-17","session_user":"web","current_user":"app_rw",
        "application_name":"crm","client_addr":"10.0.0.7","pid":4711,"transaction_ts_us":1795257600120001,
        "statement_ts_us":1795257600121870,"context":{"app.tenant":"t1"}},
        "before":{"id":42,"city":"Basel","balance":"10.50"},"after":{"id":42,"city":"Bern","balance":"10.50"}}"#;

    fn built(
        value: &str,
        op: &str,
        more: &[(&'static str, &'static str)],
    ) -> mongodb::bson::Document {
        let mut headers: Vec<(&str, Option<&[u8]>)> = vec![
            ("cdc.id", Some(b"5b1f-1")),
            (
                "cdc.version",
                Some(b"0001-0000000a-00000000015a3098-0000000001-00"),
            ),
            ("cdc.op", Some(op.as_bytes())),
            ("cdc.table", Some(b"shop.public.customer")),
        ];
        headers.extend(
            more.iter()
                .map(|(name, value)| (*name, Some(value.as_bytes()))),
        );
        let record = Record::new(
            "shop.public.customer".into(),
            2,
            133,
            Some(br#"{"id":42}"#),
            Some(value.as_bytes()),
            headers.iter().copied(),
        );
        let headers = Headers::read(&record).unwrap();
        let body = Body::parse(&record, headers.op).unwrap();
        let entity = crate::sink::mongo_history::identity::entity::entity(
            headers.table,
            identity(&record, &headers),
        );
        body.document(&record, &headers, &entity, "pg", None, Names::AsTheyAre)
            .unwrap()
            .to_document()
            .unwrap()
    }

    #[test]
    fn a_document_holds_every_fact() {
        let doc = built(UPDATE, "u", &[("__debezium.oldkey", r#"{"id":41}"#)]);
        assert_eq!(doc.get_str("_id").unwrap(), "5b1f-1");
        assert_eq!(
            doc.get_str("entity").unwrap(),
            r#"shop.public.customer:{"id":42}"#
        );
        assert_eq!(doc.get_document("key").unwrap().get_i32("id").unwrap(), 42);
        assert_eq!(
            doc.get_document("previous_key")
                .unwrap()
                .get_i32("id")
                .unwrap(),
            41
        );
        assert_eq!(doc.get_str("op").unwrap(), "update");
        assert_eq!(doc.get_array("diff").unwrap().len(), 1);
        let when = doc.get_document("when").unwrap();
        assert_eq!(
            when.get_str("commit").unwrap(),
            "2026-11-21T10:40:00.123456Z"
        );
        let transaction = doc.get_document("transaction").unwrap();
        assert_eq!(transaction.get_str("lsn").unwrap(), "0/15A3098");
        assert_eq!(transaction.get_i32("of").unwrap(), 2);
        let source = doc.get_document("source").unwrap();
        assert_eq!(source.get_i32("timeline").unwrap(), 10);
        assert_eq!(source.get_i64("offset").unwrap(), 133);
        let why = doc.get_document("why").unwrap();
        assert_eq!(
            why.get_document("context")
                .unwrap()
                .get_str("app.tenant")
                .unwrap(),
            "t1"
        );
        assert!(doc.get_datetime("commit_time").is_ok());
    }

    #[test]
    fn an_inferred_delete_has_the_last_image_and_the_snapshots_circumstances() {
        let value = r#"{"ts_us":2,"source":{"db":"shop","schema":"public","table":"customer","ts_us":1795257600123456,
            "txId":900,"lsn":1},"audit":{"current_user":"owner"},"before":null,"after":null,
            "snapshot":{"id":3,"chunk":1,"event":"chunk_end","from":null,"to":null}}"#;
        let headers: [(&str, Option<&[u8]>); 4] = [
            ("cdc.id", Some(b"77-9")),
            (
                "cdc.version",
                Some(b"0001-0000000a-00000000015a4000-0000000009-00"),
            ),
            ("cdc.op", Some(b"snapshot")),
            ("cdc.table", Some(b"shop.public.customer")),
        ];
        let record = Record::new(
            "shop.public.customer".into(),
            0,
            200,
            Some(br#"{"__cdc":"snapshot"}"#),
            Some(value.as_bytes()),
            headers.iter().copied(),
        );
        let headers = Headers::read(&record).unwrap();
        let end = Body::parse(&record, headers.op).unwrap();
        let inferred = |last: &Document| {
            let built = end.inferred_delete(&record, &headers, "pg", Names::AsTheyAre, last);
            built.unwrap().map(|built| built.to_document().unwrap())
        };
        let marked = UPDATE.replace(
            r#""before":{"id""#,
            r#""marks":{"before":null,"after":{"city":"hashed"}},"before":{"id""#,
        );
        let last = built(&marked, "u", &[]);
        let gone = inferred(&last).unwrap();
        assert_eq!(
            gone.get_str("_id").unwrap(),
            r#"77-9:shop.public.customer:{"id":42}"#
        );
        assert_eq!(gone.get_str("op").unwrap(), "inferred delete");
        assert_eq!(gone.get("before"), last.get("after"));
        assert!(gone.is_null("after") && gone.is_null("previous_key"));
        assert_eq!(gone.get("key"), last.get("key"));
        assert_eq!(gone.get("schema"), last.get("schema"));
        let marks = gone.get_document("marks").unwrap();
        assert_eq!(
            marks.get_document("before").unwrap(),
            &doc! { "city": "hashed" }
        );
        let who = gone.get_document("who").unwrap();
        assert_eq!(who.get_str("current_user").unwrap(), "owner");
        assert_eq!(
            gone.get_document("source").unwrap().get_i64("offset"),
            Ok(200)
        );
        let fields = |document: &Document| -> Vec<String> { document.keys().cloned().collect() };
        assert_eq!(fields(&gone), fields(&last), "one form for all documents");
        for op in ["delete", INFERRED_DELETE] {
            let mut last = last.clone();
            last.insert("op", op);
            assert_eq!(inferred(&last), None);
        }
    }

    #[test]
    fn a_truncate_belongs_to_the_table() {
        let value = UPDATE.replace(r#""before":{"id":42,"city":"Basel","balance":"10.50"},"after":{"id":42,"city":"Bern","balance":"10.50"}"#, r#""before":null,"after":null"#);
        let doc = built(&value, "t", &[]);
        assert_eq!(doc.get_str("entity").unwrap(), "shop.public.customer");
        assert!(doc.is_null("key") && doc.is_null("before"));
        assert_eq!(doc.get_str("op").unwrap(), "truncate");
    }
}
