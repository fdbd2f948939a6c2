//! What a table is to the history whatever it is called: its rows go by the names that table and key had first, so that a
//! renamed table, schema or key column makes no other row of them.
//!
//! Everything is by versions: an event from before a renaming may be read after it, of another partition or once more.

use crate::sink::mongo_history::identity::told::{Name, TableOid, Told};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::image::Image;
use crate::sink::mongo_history::identity::entity::entity;
use crate::sink::mongo_history::identity::renames::{Rename, first_name, names_of};

/// A table with all names that it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lineage {
    /// What its entities begin with: `database.schema.table` of its first name, unless another table has that.
    #[serde(rename = "_id")]
    pub(crate) id: String,
    /// Where its documents are.
    pub(crate) collection: String,
    /// The topic of its newest definition.
    pub(crate) topic: String,
    /// The table in its database, as far as definitions tell it.
    pub(crate) oid: Option<TableOid>,
    /// In the order of their versions; never empty.
    pub(crate) names: Vec<Name>,
    /// Of columns, in the order of their versions.
    pub(crate) renames: Vec<Rename>,
    /// What identified its rows, in the order of their versions.
    pub(crate) keys: Vec<Key>,
    /// Of the columns of its keys.
    #[serde(default)]
    pub(crate) types: Vec<KeyType>,
    /// Which writing of this it is.
    pub(crate) revision: i64,
}

/// The type of a column of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyType {
    /// By the definition of this version.
    pub(crate) from: String,
    /// Its first name.
    pub(crate) column: String,
    /// As SQL has it, with its modifier.
    pub(crate) name: String,
}

/// The columns that identify rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    /// From which version on; empty for ever.
    pub(crate) from: String,
    /// From 1 on. Rows that are known by an earlier key have links of the later ones.
    pub(crate) number: i32,
    /// Their first names.
    pub(crate) columns: Vec<String>,
}

/// What the history calls a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Natural {
    /// Its entity.
    Entity(String),
    /// What finds its entity among the links; its entity where none does.
    Link(String),
}

impl Natural {
    /// The text, whichever it is.
    pub(crate) fn text(&self) -> &str {
        match self {
            Natural::Entity(text) | Natural::Link(text) => text,
        }
    }
}

impl Lineage {
    /// A table that is first seen with what `told` says.
    pub(crate) fn new(id: String, collection: String, told: &Told<'_>) -> Lineage {
        let mut lineage = Lineage {
            id,
            collection,
            topic: told.topic.to_owned(),
            oid: told.oid(),
            names: vec![told.name.clone()],
            renames: Vec::new(),
            keys: Vec::new(),
            types: Vec::new(),
            revision: 0,
        };
        lineage.learn(told);
        lineage
    }

    /// What it is called now.
    pub(crate) fn name(&self) -> Option<&Name> {
        self.names.last()
    }

    /// Since which version it has this name at `version`; none if it has another one then.
    pub(crate) fn called_since(&self, header: &str, version: &str) -> Option<&str> {
        let name = self.names.iter().rfind(|name| *name.from <= *version)?;
        (name.header == header).then_some(name.from.as_str())
    }

    /// Takes in what an event says; whether that was new. Once more, or late, it changes nothing that is there.
    pub(crate) fn learn(&mut self, told: &Told<'_>) -> bool {
        let before = self.clone();
        if told.oid.is_some() {
            self.oid = told.oid();
        }
        told.topic.clone_into(&mut self.topic);
        let place = self
            .names
            .partition_point(|name| *name.from <= *told.version);
        let is_called_so = match place.checked_sub(1) {
            Some(last) => self.names[last].header == told.name.header,
            None => false,
        };
        if !is_called_so {
            let from = told.version.to_owned();
            self.names.insert(
                place,
                Name {
                    from,
                    ..told.name.clone()
                },
            );
        }
        for (old, new) in told.renames {
            let rename = Rename {
                from: told.version.to_owned(),
                old: old.clone(),
                new: new.clone(),
            };
            if !self.renames.contains(&rename) {
                let place = self
                    .renames
                    .partition_point(|known| *known.from <= *told.version);
                self.renames.insert(place, rename);
            }
        }
        match self.other_key(told) {
            Some(key) => self.keys.push(key),
            None => self.note_other_order(told),
        }
        for (name, type_name) in &told.types {
            let column = first_name(&self.renames, name, told.version);
            if self.keys.iter().any(|key| key.columns.contains(&column)) {
                self.note_type(column, type_name, told.version);
            }
        }
        *self != before
    }

    fn note_type(&mut self, column: String, type_name: &str, version: &str) {
        let known = self.types.iter_mut().find(|known| known.column == column);
        match known {
            Some(known) if *known.from <= *version && known.name != type_name => {
                version.clone_into(&mut known.from);
                type_name.clone_into(&mut known.name);
            }
            Some(_) => {}
            None => self.types.push(KeyType {
                from: version.to_owned(),
                column,
                name: type_name.to_owned(),
            }),
        }
    }

    /// The same columns in another order are the same key: rows go by the order that they had first.
    fn note_other_order(&mut self, told: &Told<'_>) {
        let columns = told
            .key
            .iter()
            .map(|name| first_name(&self.renames, name, told.version));
        let columns: Vec<String> = columns.collect();
        if let [only] = self.keys.as_slice()
            && *only.from < *told.version
            && is_same_set(&columns, &only.columns)
            && columns != only.columns
        {
            let from = told.version.to_owned();
            self.keys.push(Key {
                from,
                ..only.clone()
            });
        }
    }

    /// The key that an event tells, if it is none that is known.
    pub(crate) fn other_key(&self, told: &Told<'_>) -> Option<Key> {
        let renames = self.renames_with(told);
        let columns: Vec<String> = told
            .key
            .iter()
            .map(|column| first_name(&renames, column, told.version))
            .collect();
        let Some(last) = self.keys.last() else {
            return (!columns.is_empty()).then(|| Key {
                from: String::new(),
                number: 1,
                columns,
            });
        };
        let is_later = *last.from < *told.version;
        (is_later && !columns.is_empty() && !is_same_set(&columns, &last.columns)).then(|| Key {
            from: told.version.to_owned(),
            number: last.number + 1,
            columns,
        })
    }

    fn renames_with(&self, told: &Told<'_>) -> Vec<Rename> {
        let mut renames = self.renames.clone();
        for (old, new) in told.renames {
            let rename = Rename {
                from: told.version.to_owned(),
                old: old.clone(),
                new: new.clone(),
            };
            if !renames.contains(&rename) {
                renames.push(rename);
            }
        }
        renames
    }

    /// What identified rows at a version.
    pub(crate) fn key_at(&self, version: &str) -> Option<&Key> {
        self.keys.iter().rfind(|key| *key.from <= *version)
    }

    /// What a row is called whose event of `version` has this identity, a JSON object.
    pub(crate) fn natural(&self, identity: Option<&str>, version: &str) -> Natural {
        let Some(identity) = identity else {
            return Natural::Entity(self.id.clone());
        };
        let as_it_is = || Natural::Entity(entity(&self.id, Some(identity)));
        if self.renames.is_empty() && self.keys.len() <= 1 {
            return as_it_is();
        }
        let Ok(image) = Image::parse(identity.as_bytes()) else {
            return as_it_is();
        };
        let named: Vec<(String, &RawValue)> = image
            .0
            .iter()
            .map(|(name, value)| (first_name(&self.renames, name, version), *value))
            .collect();
        let names: Vec<&String> = named.iter().map(|(name, _)| name).collect();
        let key = self.key_at(version).filter(|key| {
            key.columns.len() == names.len()
                && key.columns.iter().all(|column| names.contains(&column))
        });
        let Some(key) = key else {
            let members = named
                .iter()
                .map(|(name, value)| (name.as_str(), value.get()));
            return Natural::Entity(entity(&self.id, Some(&object_text(members, 1))));
        };
        let members = key.columns.iter().filter_map(|column| {
            let (_, value) = named.iter().find(|(name, _)| name == column)?;
            Some((column.as_str(), value.get()))
        });
        match key.number {
            1 => Natural::Entity(entity(&self.id, Some(&object_text(members, 1)))),
            number => {
                let members = members.map(|(name, value)| (name, plain_json(value)));
                let members: Vec<_> = members.collect();
                let members = members.iter().map(|(name, value)| (*name, &**value));
                self.link(members, number)
            }
        }
    }

    /// What a row is called that has these values (JSON, by the first names of the columns) of the key of a number.
    pub(crate) fn link<'m>(
        &self,
        members: impl Iterator<Item = (&'m str, &'m str)>,
        number: i32,
    ) -> Natural {
        Lineage::row(&self.id, members, number)
    }

    /// The same of the table `id`.
    pub(crate) fn row<'m>(
        id: &str,
        members: impl Iterator<Item = (&'m str, &'m str)>,
        number: i32,
    ) -> Natural {
        let text = entity(id, Some(&object_text(members, number)));
        match number {
            1 => Natural::Entity(text),
            _ => Natural::Link(text),
        }
    }

    /// The type of a column of a key, by its first name, where it is known.
    pub(crate) fn type_of(&self, first: &str) -> Option<&str> {
        let known = self.types.iter().find(|known| known.column == first);
        known.map(|known| known.name.as_str())
    }

    /// What a column is called now, by its first name.
    pub(crate) fn column_now(&self, first: &str) -> String {
        self.names_of_column(first).pop().unwrap_or_default()
    }

    /// The names that a column has had, in their order, by its first one.
    pub(crate) fn names_of_column(&self, first: &str) -> Vec<String> {
        names_of(&self.renames, first, None)
    }

    /// What a column was called at a version, by its first name.
    pub(crate) fn column_at(&self, first: &str, version: &str) -> String {
        let names = names_of(&self.renames, first, Some(version));
        names.into_iter().next_back().unwrap_or_default()
    }
}

fn is_same_set(one: &[String], other: &[String]) -> bool {
    one.len() == other.len() && one.iter().all(|column| other.contains(column))
}

/// A JSON object; of a later key than the first with its number, so that no row of another key has the same.
fn object_text<'m>(members: impl Iterator<Item = (&'m str, &'m str)>, number: i32) -> String {
    let members = members.map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name)));
    let number = (number > 1).then(|| format!("\"~key\":{number}"));
    let members: Vec<String> = members.chain(number).collect();
    format!("{{{}}}", members.join(","))
}

/// One form for equal values, which an event and a document may write differently.
fn plain_json(json: &str) -> String {
    serde_json::from_str::<serde_json::Value>(json)
        .map_or_else(|_| json.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn version(number: u32) -> String {
        format!("0001-00000001-{number:016x}-0000000001-00")
    }

    fn name(schema: &str, table: &str) -> Name {
        Name {
            from: String::new(),
            header: format!("shop.{schema}.{table}"),
            database: "shop".into(),
            schema: schema.into(),
            table: table.into(),
        }
    }

    struct Teller(Lineage);

    impl Teller {
        fn tell(
            &mut self,
            number: u32,
            name: Name,
            renames: &[(&str, &str)],
            key: &[&str],
        ) -> bool {
            let renames = renames
                .iter()
                .map(|(old, new)| ((*old).to_owned(), (*new).to_owned()));
            let key: Vec<String> = key.iter().map(|column| (*column).to_owned()).collect();
            self.0.learn(&Told {
                version: &version(number),
                topic: "t",
                is_renaming: false,
                name,
                oid: None,
                renames: &renames.collect(),
                key: &key,
                types: Vec::new(),
            })
        }

        fn natural(&self, identity: &str, number: u32) -> String {
            self.0
                .natural(Some(identity), &version(number))
                .text()
                .to_owned()
        }
    }

    fn teller(key: &[&str]) -> Teller {
        let key: Vec<String> = key.iter().map(|column| (*column).to_owned()).collect();
        let renames = BTreeMap::new();
        let told = Told {
            version: &version(1),
            topic: "t",
            is_renaming: false,
            name: name("public", "t"),
            oid: None,
            renames: &renames,
            key: &key,
            types: Vec::new(),
        };
        Teller(Lineage::new(
            "shop.public.t".into(),
            "t_history".into(),
            &told,
        ))
    }

    #[test]
    fn whatever_is_renamed_a_row_goes_by_its_first_names() {
        let mut of = teller(&["id"]);
        assert!(of.tell(5, name("public", "t"), &[("id", "t_id")], &["t_id"]));
        assert!(of.tell(6, name("app", "u"), &[], &["t_id"]));
        // The copies of other partitions, and reading again.
        assert!(!of.tell(5, name("public", "t"), &[("id", "t_id")], &["t_id"]));
        assert!(!of.tell(1, name("public", "t"), &[], &["id"]));
        let first = r#"shop.public.t:{"id":42}"#;
        assert_eq!(of.natural(r#"{"id":42}"#, 4), first);
        assert_eq!(of.natural(r#"{"t_id":42}"#, 5), first);
        assert_eq!(of.natural(r#"{"t_id":42}"#, 9), first);
        assert_eq!(of.0.called_since("shop.public.t", &version(5)), Some(""));
        assert_eq!(of.0.called_since("shop.public.t", &version(7)), None);
        assert_eq!(
            of.0.called_since("shop.app.u", &version(7)),
            Some(&*version(6))
        );
        assert_eq!(of.0.names_of_column("id"), ["id", "t_id"]);
        assert_eq!(of.0.keys.len(), 1);
    }

    #[test]
    fn columns_that_change_names_with_each_other_are_told_apart() {
        let mut of = teller(&["a", "b"]);
        for (number, old, new) in [(2, "a", "x"), (3, "b", "a"), (4, "x", "b")] {
            let key = match number {
                2 => ["x", "b"],
                3 => ["x", "a"],
                _ => ["b", "a"],
            };
            of.tell(number, name("public", "t"), &[(old, new)], &key);
        }
        assert_eq!(
            of.natural(r#"{"b":1,"a":2}"#, 4),
            r#"shop.public.t:{"a":1,"b":2}"#
        );
        assert_eq!(of.0.column_at("a", &version(4)), "b");
        assert_eq!(of.0.column_at("a", &version(3)), "x");
        assert_eq!(of.0.keys.len(), 1);
    }

    #[test]
    fn the_order_of_a_keys_columns_makes_no_other_key() {
        let mut of = teller(&["a", "b"]);
        assert!(of.tell(2, name("public", "t"), &[], &["b", "a"]));
        assert!(!of.tell(3, name("public", "t"), &[], &["b", "a"]));
        assert_eq!(
            of.natural(r#"{"b":1,"a":2}"#, 2),
            r#"shop.public.t:{"a":2,"b":1}"#
        );
        assert_eq!(of.0.keys.last().map(|key| key.number), Some(1));
    }

    #[test]
    fn another_key_is_told_apart_also_where_its_column_has_an_old_name() {
        let mut of = teller(&["id"]);
        of.tell(2, name("public", "t"), &[("id", "old_id")], &["old_id"]);
        of.tell(3, name("public", "t"), &[], &[]);
        of.tell(4, name("public", "t"), &[], &["id"]);
        assert_eq!(of.0.keys.len(), 2);
        assert_eq!(
            of.0.natural(Some(r#"{"id":7}"#), &version(5)),
            Natural::Link(r#"shop.public.t:{"id~2":7,"~key":2}"#.into())
        );
        assert_eq!(
            of.natural(r#"{"old_id":7}"#, 3),
            r#"shop.public.t:{"id":7}"#
        );
        assert_eq!(of.0.names_of_column("id~2"), ["id"]);
        // And back to the first one: rows of either key are found by links.
        of.tell(6, name("public", "t"), &[], &["old_id"]);
        assert_eq!(
            of.natural(r#"{"old_id":7}"#, 7),
            r#"shop.public.t:{"id":7,"~key":3}"#
        );
    }
}
