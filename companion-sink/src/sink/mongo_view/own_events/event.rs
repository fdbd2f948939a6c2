//! An application's own event, in a topic that is a view's root: it makes a document, or takes the place of the one with its id.

use change::trouble::Trouble;
use mongodb::bson::{Bson, Document, RawBson};
use serde_json::value::RawValue;

use crate::config::statistics::path::{Path, Root};
use crate::error::Code;
use crate::event::Headers;
use crate::event::Op;
use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::event::own::OwnEvent;
use crate::event::pg_type::PgType;
use crate::kafka::record::Record;
use crate::rejected::failure::{Failure, NotApplied};
use crate::rule::condition::Condition;
use crate::rule::expression::Judgement;
use crate::sink::mongo_history::documents::bson_value::{Names, document_of, value_of};
use crate::sink::mongo_view::own_events::root::{KEY, OwnRoot, WHOLE};
use crate::sink::mongo_view::plan::{ID, REFUSED, VERSION, link};
use crate::sink::mongo_view::row::{Change, ChangeKind, row_id};
use crate::sink::mongo_view::step::Step;
use crate::sink::mongo_view::view::{View, not_connected};

/// What an event of the root asks for.
pub(crate) fn step(
    view: &View,
    own: &OwnRoot,
    record: &Record,
    headers: &Headers<'_>,
) -> std::result::Result<Option<Step>, NotApplied> {
    if headers.op.is_row() {
        return Err(rows_instead(own, headers).into());
    }
    if headers.op != Op::Emit {
        return Ok(None);
    }
    let connection = view.connection.as_ref().ok_or_else(not_connected)?;
    let names = connection.store.names;
    let event = OwnEvent::read(record)?;
    let (table, version) = (own.table(), headers.version.to_owned());
    if event.value.is_none() && own.id.is_some() {
        let key = key_text(record).map(Bson::String);
        let link = key.and_then(|key| link(&table, KEY, &key));
        return Ok(link.map(|link| Step::KeyGone {
            table,
            link,
            version,
        }));
    }
    if event.value.is_some() && !is_chosen(view.condition.as_ref(), record)? {
        return Ok(None);
    }
    let (identity, key) = identity(own, record, &event, names)?;
    let kind = match event.value {
        Some(_) => ChangeKind::Put(row(own, record, &event, names)?),
        None => ChangeKind::Delete,
    };
    Ok(Some(Step::Row(Change {
        id: row_id(&table, &identity),
        table,
        key,
        version,
        kind,
    })))
}

/// Whether an event makes a document: as in SQL, NULL does not.
fn is_chosen(
    condition: Option<&Condition>,
    record: &Record,
) -> std::result::Result<bool, NotApplied> {
    let Some(condition) = condition else {
        return Ok(true);
    };
    match condition.judge(record)? {
        Judgement::True => Ok(true),
        Judgement::False | Judgement::Null | Judgement::Missing => Ok(false),
        Judgement::Unclear(why) => {
            Err(Failure::conversion(format!("where cannot be told: {why}")).into())
        }
    }
}

/// The record's key: the value of a single column, an object of several, or a text.
fn identity_of_key(record: &Record, names: Names) -> std::result::Result<(String, Bson), Failure> {
    let Some(key) = key_text(record) else {
        return Err(Failure::conversion(
            "the event has no key, and the view no id".to_owned(),
        ));
    };
    if !key.starts_with('{') {
        return Ok((key.clone(), Bson::String(key)));
    }
    let columns = document_of(&Image::parse(key.as_bytes())?, None, names)?;
    let columns = Document::try_from(columns.as_ref()).map_err(|_| unwritable())?;
    Ok((key, Bson::Document(columns)))
}

/// A key that is UTF-8.
fn key_text(record: &Record) -> Option<String> {
    let key = std::str::from_utf8(record.key()?).ok()?;
    Some(key.to_owned())
}

/// The row of an event, and its key.
fn row(
    own: &OwnRoot,
    record: &Record,
    event: &OwnEvent<'_>,
    names: Names,
) -> std::result::Result<Document, Failure> {
    let mut row = Document::new();
    for (text, path) in own.paths() {
        if let Some(json) = at(event, path)? {
            row.insert(names.write(text), bson(json, names)?);
        }
    }
    if own.has_whole_value {
        let whole = event.value.map(|json| bson(json, names)).transpose()?;
        let Some(Bson::Document(whole)) = whole else {
            return Err(Failure::conversion(
                "the value is no object, and fields names nothing of it".to_owned(),
            ));
        };
        let mut of_view = [ID, VERSION, REFUSED].into_iter();
        if let Some(name) = of_view.find(|name| whole.contains_key(name)) {
            return Err(Failure::conversion(format!(
                "the value has a member {name}, which is the view's own: fields can give it another name"
            )));
        }
        row.insert(WHOLE, whole);
    }
    if own.id.is_some()
        && let Some(key) = key_text(record)
    {
        row.insert(KEY, key);
    }
    Ok(row)
}

/// Which document an event is: the identity of its row, and the row's key.
fn identity(
    own: &OwnRoot,
    record: &Record,
    event: &OwnEvent<'_>,
    names: Names,
) -> std::result::Result<(String, Bson), Failure> {
    let Some(path) = &own.id else {
        return identity_of_key(record, names);
    };
    let id = at(event, path)?.map(|json| bson(json, names)).transpose()?;
    match id {
        Some(id @ (Bson::String(_) | Bson::Int32(_) | Bson::Int64(_))) => Ok((id.to_string(), id)),
        _ => Err(Failure::conversion(format!(
            "{} is no text and no whole number, and so no id",
            path.text()
        ))),
    }
}

/// What is at a path of an event.
fn at<'e>(
    event: &'e OwnEvent<'_>,
    path: &Path,
) -> std::result::Result<Option<&'e RawValue>, Malformed> {
    let mut found = match path.root {
        Root::Audit => Some(&*event.audit),
        _ => event.value,
    };
    for name in &path.names {
        found = match found.filter(|json| json.get().starts_with('{')) {
            Some(json) => Image::parse(json.get().as_bytes())?.get(name),
            None => None,
        };
    }
    Ok(found)
}

fn bson(json: &RawValue, names: Names) -> std::result::Result<Bson, Failure> {
    let raw: RawBson = value_of(json, &PgType::Plain, names)?;
    Bson::try_from(raw).map_err(|_| unwritable())
}

fn unwritable() -> Failure {
    Failure::conversion("a value cannot be written as BSON".into())
}

/// The topic is a table's.
fn rows_instead(own: &OwnRoot, headers: &Headers<'_>) -> Trouble {
    Trouble::new(
        Code::Configuration,
        format!(
            "topic {} has rows of table {}, and no own events",
            own.topic, headers.table
        ),
        "Name the table with root instead of root_topic, then `companion-sink rebuild` the view and restart.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::mongo_view::plan::Plan;
    use mongodb::bson::doc;

    const SOLD: &str = r#"
        root_topic = "shop.product-sold"
        id = "value.payload.saleId"
        where = "value.eventType == 'product-sold'"
        fields = { "productId" = "value.payload.productId", "by" = "audit.actor" }
        join = [{ table = "public.product", on = "id = value.payload.productId", as = "product" }]
    "#;

    fn plan(text: &str) -> std::result::Result<Plan, String> {
        Plan::new(&toml::from_str(text).expect("settings"))
    }

    fn event(key: Option<&str>, value: &str) -> Record {
        let headers: [(&str, Option<&[u8]>); 2] =
            [("cdc.op", Some(b"emit")), ("cdc.actor", Some(b"ann"))];
        let (key, value) = (key.map(str::as_bytes), Some(value.as_bytes()));
        let topic = "shop.product-sold".into();
        Record::new(topic, 0, 0, key, value, headers.into_iter())
    }

    #[test]
    fn a_row_has_what_the_view_uses_of_an_event() {
        let plan = plan(SOLD).unwrap();
        let own = plan.own.as_ref().unwrap();
        let sale = r#"{"payload":{"saleId":7,"productId":"p1","more":[1]}}"#;
        let record = event(Some("k"), sale);
        let read = OwnEvent::read(&record).unwrap();
        let made = row(own, &record, &read, Names::AsTheyAre).unwrap();
        let expected = doc! { "audit.actor": "ann", "value.payload.productId": "p1", "key": "k" };
        assert_eq!(made, expected);
        let which = identity(own, &record, &read, Names::AsTheyAre).unwrap();
        assert_eq!(which, ("7".to_owned(), Bson::Int32(7)));
        let links = plan.links_of(&own.table(), &made);
        let link = |column: &str, value: &str| link(&own.table(), column, &Bson::from(value));
        let by = [link(KEY, "k"), link("value.payload.productId", "p1")];
        assert_eq!(links, by.map(Option::unwrap));
        for no_id in ["{}", r#"{"payload":{"saleId":1.5}}"#, r#"{"payload":7}"#] {
            let record = event(None, no_id);
            let read = OwnEvent::read(&record).unwrap();
            let refused = identity(own, &record, &read, Names::AsTheyAre).unwrap_err();
            assert!(refused.message.contains("value.payload.saleId"), "{no_id}");
        }
    }

    #[test]
    fn without_an_id_the_key_is_it() {
        let plan = plan("root_topic = \"shop.product-sold\"").unwrap();
        let own = plan.own.as_ref().unwrap();
        let id = |key: Option<&str>| {
            let record = event(key, "{\"a\":1}");
            let read = OwnEvent::read(&record).unwrap();
            identity(own, &record, &read, Names::AsTheyAre)
        };
        assert_eq!(id(Some("k")).unwrap().1, Bson::from("k"));
        let of_object = id(Some("{\"id\":1}")).unwrap();
        assert_eq!(of_object.1, Bson::Document(doc! { "id": 1 }));
        assert!(id(None).unwrap_err().message.contains("no key"));
        let whole = |value: &str| {
            let record = event(Some("k"), value);
            let read = OwnEvent::read(&record).unwrap();
            row(own, &record, &read, Names::AsTheyAre)
        };
        assert_eq!(whole("{\"a\":1}").unwrap(), doc! { "value": { "a": 1 } });
        assert!(whole("[1]").is_err() && whole("{\"_id\":1}").is_err());
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        let wrong = |from: &str, to: &str| plan(&SOLD.replace(from, to)).unwrap_err();
        let both = "root = \"public.a\"\nroot_topic";
        assert!(wrong("root_topic", both).contains("root is set as well"));
        assert!(wrong("root_topic", "root").contains("id: it is about events"));
        assert!(wrong("value.payload.saleId", "after.id").starts_with("id: "));
        assert!(wrong("audit.actor", "adit.actor").contains("fields.by: "));
        assert!(wrong("= value.payload", "= vlue.payload").contains("did you mean \"value\"?"));
        assert!(wrong("value.eventType", "vlue.eventType").starts_with("where: "));
    }
}
