//! The tables of a history, in the collection `companion_tables`: a document for each, with its names, keys and collection.

use std::collections::{BTreeMap, HashMap};

use change::trouble::Trouble;
use futures_util::TryStreamExt;
use mongodb::bson::{self, Document, doc};
use mongodb::{Collection, Database};

use crate::error::{Code, Result};
use crate::sink::mongo_history::failure::{classify, is_about_name, is_duplicate_id};
use crate::sink::mongo_history::identity::lineage::Lineage;
use crate::sink::mongo_history::identity::lineage::Natural;
use crate::sink::mongo_history::identity::links::Links;
use crate::sink::mongo_history::identity::told::Told;
use crate::sink::mongo_history::tables::collection_name::Candidates;

const COLLECTION: &str = "companion_tables";

/// The tables that a history knows.
pub(crate) struct HistoryTables {
    database: Database,
    collection: Collection<Document>,
    links: Links,
    all: Vec<Lineage>,
    /// Places in `all`, by every name that a table had.
    by_header: HashMap<String, Vec<usize>>,
    /// Entities by links, of those that were looked up lately.
    known: HashMap<String, String>,
}

/// Links that are kept in memory.
const KNOWN_MAX: usize = 100_000;

impl HistoryTables {
    /// Those of `database`.
    pub(crate) async fn read(database: &Database) -> Result<HistoryTables> {
        let collection: Collection<Document> = database.collection(COLLECTION);
        let failed = |error| classify("reading the tables of the history", &error);
        let mut found = collection.find(doc! {}).await.map_err(failed)?;
        let mut tables = HistoryTables {
            database: database.clone(),
            links: Links::of(database),
            collection: collection.clone(),
            all: Vec::new(),
            by_header: HashMap::new(),
            known: HashMap::new(),
        };
        while let Some(found) = found.try_next().await.map_err(failed)? {
            let lineage = bson::from_document(found).map_err(|_| unknown_form())?;
            tables.all.push(lineage);
        }
        tables.index();
        Ok(tables)
    }

    /// Where they are.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Lineage] {
        &self.all
    }

    /// All of them, for who only asks.
    pub(crate) fn into_all(self) -> Vec<Lineage> {
        self.all
    }

    fn index(&mut self) {
        self.by_header.clear();
        for (place, lineage) in self.all.iter().enumerate() {
            for name in &lineage.names {
                let places = self.by_header.entry(name.header.clone()).or_default();
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
    }

    /// The table that had a name at a version, for events of a topic.
    pub(crate) fn of(&self, topic: &str, header: &str, version: &str) -> Option<&Lineage> {
        let place = self.place_of(topic, header, version);
        place.map(|place| &self.all[place])
    }

    /// The topic's own table counts before others: a definition in another topic takes no rows of this one away.
    fn place_of(&self, topic: &str, header: &str, version: &str) -> Option<usize> {
        let places = self.by_header.get(header)?.iter();
        let since = |place: &usize| {
            let lineage = &self.all[*place];
            let since = lineage.called_since(header, version)?;
            Some((lineage.topic == topic, since, *place))
        };
        places.filter_map(since).max().map(|(.., place)| place)
    }

    /// The table that a definition is about, if it is known.
    fn place_of_definition(&self, told: &Told<'_>) -> Option<usize> {
        let named = self.place_of(told.topic, &told.name.header, told.version);
        if !told.is_renaming {
            // Another topic may have told first under which name it is tracked now.
            return named.or_else(|| self.place_of_oid(told));
        }
        let is_copy = |place: &usize| {
            let names = &self.all[*place].names;
            names.iter().any(|name| *name.from == *told.version)
        };
        let place = |wanted: &Lineage| self.all.iter().position(|lineage| lineage.id == wanted.id);
        let mut of_topic = self
            .all
            .iter()
            .filter(|lineage| lineage.topic == told.topic);
        let only_one = || of_topic.next().filter(|_| of_topic.next().is_none());
        named
            .filter(is_copy)
            .or_else(|| self.place_of_oid(told))
            .or_else(|| {
                let only_one: Option<&Lineage> = { only_one }();
                only_one.and_then(place)
            })
            .or(named)
    }

    /// The table that has the oid of a definition in its database, as long as that is the same server's.
    fn place_of_oid(&self, told: &Told<'_>) -> Option<usize> {
        let oid = told.oid()?;
        let is_same = |lineage: &Lineage| {
            let database = lineage.name().map(|name| name.database.as_str());
            lineage.oid.as_ref() == Some(&oid) && database == Some(&told.name.database)
        };
        let place = self.all.iter().position(is_same)?;
        let is_of = |lineage: &Lineage| lineage.topic == told.topic;
        // A topic that has a table of its own gives no other one another name.
        let may_be = !told.is_renaming || is_of(&self.all[place]) || !self.all.iter().any(is_of);
        may_be.then_some(place)
    }

    /// Whether the table that a definition is about is known.
    pub(crate) fn knows(&self, told: &Told<'_>) -> bool {
        self.place_of_definition(told).is_some()
    }

    /// What the table of a definition is when that is taken in.
    pub(crate) fn learnt(&self, told: &Told<'_>) -> Option<Lineage> {
        let mut lineage = self.all[self.place_of_definition(told)?].clone();
        lineage.learn(told);
        Some(lineage)
    }

    /// The key that a definition brings, if it is another one than its table has.
    pub(crate) fn other_key(&self, told: &Told<'_>) -> Option<i32> {
        let lineage = &self.all[self.place_of_definition(told)?];
        let key = lineage.other_key(told)?;
        (key.number > 1).then_some(key.number)
    }

    /// Takes in what an event says about a table.
    pub(crate) async fn learn(&mut self, told: &Told<'_>, template: &str) -> Result<&Lineage> {
        let place = match self.place_of_definition(told) {
            Some(place) => {
                let mut lineage = self.all[place].clone();
                if lineage.learn(told) {
                    self.write(&mut lineage).await?;
                    self.all[place] = lineage;
                    self.index();
                }
                place
            }
            None => {
                let lineage = self.begin(told, template).await?;
                self.all.push(lineage);
                self.index();
                self.all.len() - 1
            }
        };
        Ok(&self.all[place])
    }

    /// A table that the history has not seen yet.
    async fn begin(&self, told: &Told<'_>, template: &str) -> Result<Lineage> {
        let header = &told.name.header;
        let mut told = told.clone();
        if self.by_header.contains_key(header) {
            told.version.clone_into(&mut told.name.from);
        }
        let is_known = |id: &str| self.all.iter().any(|lineage| lineage.id == id);
        let mut id = header.clone();
        let mut number = 1;
        while is_known(&id) {
            number += 1;
            // No name in events has such a character.
            id = format!("{header}~{number}");
        }
        let collection = self.choose(&told, &id, template).await?;
        let lineage = Lineage::new(id, collection, &told);
        let document = bson::to_document(&lineage).map_err(|_| unknown_form())?;
        match self.collection.insert_one(document).await {
            Ok(_) => Ok(lineage),
            Err(error) if is_duplicate_id(&error) => Err(other_instance()),
            Err(error) => Err(classify("noting a table", &error)),
        }
    }

    /// The collection of a new table: no other one has it, and what is in it is the table's.
    async fn choose(&self, told: &Told<'_>, id: &str, template: &str) -> Result<String> {
        let candidates = Candidates::of(template, &told.name, self.database.name());
        if let Some(former) = &candidates.former
            && !self.is_taken(former)
            && self.owner(former).await? == Some(id.to_owned())
        {
            return Ok(former.clone());
        }
        let mut place = 0;
        loop {
            let name = candidates.at(place);
            if !self.is_taken(&name) {
                let owner = self.owner(&name).await?;
                if owner.is_none_or(|owner| owner == id) {
                    if place > 0 {
                        let table = &told.name.header;
                        tracing::info!(
                            table,
                            collection = name,
                            "another table has the collection that this one would have"
                        );
                    }
                    return Ok(name);
                }
            }
            place += 1;
        }
    }

    fn is_taken(&self, collection: &str) -> bool {
        self.all
            .iter()
            .any(|lineage| lineage.collection == collection)
    }

    /// The table whose documents are in a collection; something else where the server refuses the name.
    async fn owner(&self, collection: &str) -> Result<Option<String>> {
        let found = self
            .database
            .collection::<Document>(collection)
            .find_one(doc! {})
            .projection(doc! { "entity": 1 })
            .await;
        match found {
            Ok(None) => Ok(None),
            Ok(Some(document)) => {
                let entity = document.get_str("entity").unwrap_or_default();
                Ok(Some(table_of(entity).to_owned()))
            }
            Err(error) if is_about_name(&error) => Ok(Some(String::new())),
            Err(error) => Err(classify("looking for the collection", &error)),
        }
    }

    async fn write(&self, lineage: &mut Lineage) -> Result<()> {
        let before = lineage.revision;
        lineage.revision += 1;
        let document = bson::to_document(&*lineage).map_err(|_| unknown_form())?;
        let same = doc! { "_id": &lineage.id, "revision": before };
        let replaced = self.collection.replace_one(same, document).await;
        let replaced = replaced.map_err(|error| classify("noting a table", &error))?;
        match replaced.matched_count {
            0 => Err(other_instance()),
            _ => Ok(()),
        }
    }

    /// Looks up the links that are not in memory.
    pub(crate) async fn look_up(
        &mut self,
        naturals: impl IntoIterator<Item = &Natural>,
    ) -> Result<()> {
        let mut unknown: Vec<&str> = naturals
            .into_iter()
            .filter_map(|natural| match natural {
                Natural::Link(link) if !self.known.contains_key(link) => Some(link.as_str()),
                _ => None,
            })
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut found = self.links.find(&unknown).await?;
        if self.known.len() + unknown.len() > KNOWN_MAX {
            self.known.clear();
        }
        for link in unknown {
            let entity = found.remove(link).unwrap_or_else(|| link.to_owned());
            self.known.insert(link.to_owned(), entity);
        }
        Ok(())
    }

    /// The entity of a row whose link was looked up.
    pub(crate) fn entity(&self, natural: Natural) -> String {
        match natural {
            Natural::Entity(entity) => entity,
            Natural::Link(link) => match self.known.get(&link) {
                Some(entity) => entity.clone(),
                None => link,
            },
        }
    }

    /// Whether a row has no link, as far as that was looked up.
    pub(crate) fn is_unlinked(&self, natural: &Natural) -> bool {
        match natural {
            Natural::Entity(_) => false,
            Natural::Link(link) => self.known.get(link) == Some(link),
        }
    }

    /// Notes links.
    pub(crate) async fn note_links(&mut self, links: &[(String, String)]) -> Result<()> {
        self.links.note(links).await?;
        for (link, _) in links {
            self.known.remove(link);
        }
        Ok(())
    }
}

/// The table of an entity: what is before its key.
pub(crate) fn table_of(entity: &str) -> &str {
    entity.split_once(":{").map_or(entity, |(table, _)| table)
}

/// Nothing was renamed.
pub(crate) fn no_renames() -> &'static BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    &NONE
}

fn unknown_form() -> Trouble {
    Trouble::new(
        Code::TargetRefuses,
        format!("mongodb: a document of {COLLECTION} has an unknown form"),
        "Restore it from a backup of the history's database, then send SIGHUP.",
    )
}

fn other_instance() -> Trouble {
    Trouble::new(
        Code::OtherInstance,
        format!("mongodb: another instance wrote into {COLLECTION}"),
        "Nothing is lost; this one reads it again.",
    )
}
