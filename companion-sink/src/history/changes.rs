//! Changes over all rows, and over all tables: by actor, request, transaction, value and time.

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};

use crate::error::{Result, misconfigured};
use crate::history::entity::Range;
use crate::history::table::HistoryTable;
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_history::failure::classify;

/// What is looked for; everything that is given must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangeSearch {
    pub(crate) actor: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) transaction: Option<String>,
    /// `column=value` each: the row had it before or after the change.
    pub(crate) values: Vec<String>,
    pub(crate) range: Range,
}

/// A change and its table.
pub(crate) struct Change<'a> {
    pub(crate) table: &'a HistoryTable,
    pub(crate) document: Document,
}

impl ChangeSearch {
    fn filter(&self) -> Result<Document> {
        let mut all = self.range.conditions();
        for (field, wanted) in [
            ("who.actor", &self.actor),
            ("why.request_id", &self.request_id),
        ] {
            all.extend(wanted.as_ref().map(|wanted| doc! { field: wanted }));
        }
        all.extend(self.transaction.as_deref().map(in_transaction));
        for value in &self.values {
            let (column, value) = value.split_once('=').ok_or_else(|| {
                misconfigured(
                    format!("\"{value}\" is no condition"),
                    "Write column=value, such as --where 'city=Bern'.",
                )
            })?;
            let forms = forms(value);
            let column = Names::WithoutDots.write(column);
            let side = |image: &str| doc! { format!("{image}.{column}"): { "$in": &forms } };
            all.push(doc! { "$or": [side("after"), side("before")] });
        }
        Ok(match all.is_empty() {
            true => doc! {},
            false => doc! { "$and": all },
        })
    }

    /// The changes that are found in `tables`, in the order in which they were committed.
    pub(crate) async fn run<'a>(&self, tables: &'a [HistoryTable]) -> Result<Vec<Change<'a>>> {
        let filter = self.filter()?;
        let failed = |error| classify("searching the history", &error);
        let mut found = Vec::new();
        for table in tables {
            let own = table
                .collection
                .find(filter.clone())
                .sort(self.range.order())
                .limit(self.range.limit.map_or(0, i64::from))
                .await
                .map_err(failed)?;
            let own: Vec<Document> = own.try_collect().await.map_err(failed)?;
            found.extend(own.into_iter().map(|document| Change { table, document }));
        }
        found.sort_by(|one, other| place(&one.document).cmp(&place(&other.document)));
        if let Some(limit) = self.range.limit {
            let too_many = found.len().saturating_sub(limit as usize);
            match self.range.after {
                Some(_) => found.truncate(limit as usize),
                None => drop(found.drain(..too_many)),
            }
        }
        Ok(found)
    }
}

/// `812:22687896` is one; `812` alone, as `pg_current_xact_id()` has it, is the one with any commit LSN.
fn in_transaction(id: &str) -> Document {
    match id.contains(':') {
        true => doc! { "transaction.id": id },
        // A semicolon follows the colon.
        false => doc! { "transaction.id": { "$gte": format!("{id}:"), "$lt": format!("{id};") } },
    }
}

fn place(document: &Document) -> [&str; 2] {
    ["version", "_id"].map(|field| document.get_str(field).unwrap_or_default())
}

/// What a document may have for a value that somebody typed.
pub(crate) fn forms(value: &str) -> Vec<Bson> {
    let mut forms = vec![Bson::String(value.to_owned())];
    match value {
        "null" => forms.push(Bson::Null),
        "true" => forms.push(Bson::Boolean(true)),
        "false" => forms.push(Bson::Boolean(false)),
        number => {
            if let Ok(whole) = number.parse::<i64>() {
                forms.push(Bson::Int64(whole));
            }
            if let Ok(double) = number.parse::<f64>()
                && double.is_finite()
            {
                forms.push(Bson::Double(double));
            }
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_joined() {
        let search = ChangeSearch {
            actor: Some("ann".into()),
            values: vec!["n=1".into()],
            range: Range {
                since: Some("2026-11-21T00:00:00.000000Z".into()),
                ..Range::default()
            },
            ..ChangeSearch::default()
        };
        let forms = vec![Bson::String("1".into()), Bson::Int64(1), Bson::Double(1.0)];
        assert_eq!(
            search.filter().unwrap(),
            doc! { "$and": [
                { "when.effective": { "$gte": "2026-11-21T00:00:00.000000Z" } },
                { "who.actor": "ann" },
                { "$or": [{ "after.n": { "$in": &forms } }, { "before.n": { "$in": &forms } }] },
            ] }
        );
        assert_eq!(ChangeSearch::default().filter().unwrap(), doc! {});
        let wrong = ChangeSearch {
            values: vec!["Bern".into()],
            ..ChangeSearch::default()
        };
        assert!(wrong.filter().is_err());
    }
}
