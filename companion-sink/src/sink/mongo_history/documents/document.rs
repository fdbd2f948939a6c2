//! The document of one change: only facts that never change afterwards, so that writing it again changes nothing.

use mongodb::bson::{Bson, DateTime, Document, RawBson, RawDocumentBuf, doc, rawdoc};

use crate::event::Headers;
use crate::event::Op;
use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::kafka::record::Record;
use crate::sink::mongo_history::documents::bson_value::{Names, document_of};
use crate::sink::mongo_history::documents::column_types::ColumnTypes;
use crate::sink::mongo_history::documents::diff::diff;
use crate::sink::mongo_history::documents::history_body::{HistoryBody, optional_text, whole};

/// The operation of a row that a snapshot did not find.
pub(crate) const INFERRED_DELETE: &str = "inferred_delete";

/// The document of this event, of a row that the history calls `entity`.
pub(crate) fn of_event(
    body: &HistoryBody<'_>,
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
    for (field, image) in [("before", &body.before), ("after", &body.after)] {
        doc.append(
            field,
            match image {
                Some(image) => RawBson::Document(document_of(image, types, names)?),
                None => RawBson::Null,
            },
        );
    }
    match (&body.before, &body.after) {
        (Some(before), Some(after)) => {
            doc.append(
                "diff",
                diff(before, after, types, |name| body.is_masked(name), names)?,
            );
        }
        _ => doc.append("diff", mongodb::bson::RawArrayBuf::new()),
    }
    doc.append("marks", body.marks(names)?);
    doc.append(
        "schema",
        optional_text(definition.map(|(version, _)| version)),
    );
    append_circumstances(&mut doc, body, record, headers, source_name, names)?;
    Ok(doc)
}

/// The document that says that a row is gone, for this event, the end of a snapshot, has not met it. `last` is the newest
/// document of its entity; none if that says so already.
pub(crate) fn inferred_delete(
    body: &HistoryBody<'_>,
    record: &Record,
    headers: &Headers<'_>,
    source_name: &str,
    names: Names,
    last: &Document,
) -> Result<Option<RawDocumentBuf>, Malformed> {
    let there = matches!(last.get_str("op"), Ok("create" | "update" | "read"));
    let (Ok(entity), Ok(image), true) = (last.get_str("entity"), last.get_document("after"), there)
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
    append_circumstances(&mut doc, body, record, headers, source_name, names)?;
    Ok(Some(doc))
}

/// Who, why, when and where the event is from.
fn append_circumstances(
    doc: &mut RawDocumentBuf,
    body: &HistoryBody<'_>,
    record: &Record,
    headers: &Headers<'_>,
    source_name: &str,
    names: Names,
) -> Result<(), Malformed> {
    doc.append("who", body.who());
    doc.append("why", body.why(names)?);
    doc.append("when", body.when());
    let commit_time = body
        .commit_us()
        .map(|us| DateTime::from_millis(us.div_euclid(1000)));
    doc.append(
        "commit_time",
        commit_time.map_or(RawBson::Null, RawBson::DateTime),
    );
    doc.append("transaction", body.transaction());
    doc.append("source", source(record, headers, source_name));
    Ok(())
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
        Op::Read => "read",
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
        "source_name": name,
        "generation": hex(0..4),
        "timeline": hex(5..13),
        "topic": &*record.topic,
        "partition": record.partition,
        "offset": record.offset,
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
        let body = HistoryBody::parse(&record, headers.op).unwrap();
        let entity = crate::sink::mongo_history::identity::entity::entity(
            headers.table,
            identity(&record, &headers),
        );
        of_event(
            &body,
            &record,
            &headers,
            &entity,
            "pg",
            None,
            Names::AsTheyAre,
        )
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
        assert_eq!(transaction.get_i32("event_count").unwrap(), 2);
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
        let end = HistoryBody::parse(&record, headers.op).unwrap();
        let inferred = |last: &Document| {
            let built = inferred_delete(&end, &record, &headers, "pg", Names::AsTheyAre, last);
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
        assert_eq!(gone.get_str("op").unwrap(), "inferred_delete");
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
