//! The refused events of all sinks, and what people decide about them: for the command (`cli/dlq.rs`) and over HTTP
//! (`http/dlq.rs`). A decision is noted where the sink keeps its state; the instance that is active carries it out.

pub(crate) mod edit;
mod history;
pub(crate) mod outcome;
mod replica;

use change::trouble::Trouble;
use mongodb::Database;
use tokio::sync::OnceCell;

use crate::config::{Kind, Loaded};
use crate::dlq::edit::{Set, edit};
use crate::dlq::replica::ReplicaStore;
use crate::error::{Result, misconfigured};
use crate::rejected::page::Page;
use crate::rejected::page::PagePart;
use crate::rejected::parked_event::{Decider, Decision, Parked, Whole};
use crate::sink::mongo_history;
use crate::sink::mongo_history::parked::store::ParkedDocuments;

/// Where the configured sinks keep their refused events.
pub(crate) struct Dlq(Vec<Place>);

struct Place {
    /// The sink.
    name: String,
    /// `<name>.<sink>`, as its state has it.
    state_name: String,
    url: String,
    kind: PlaceKind,
}

enum PlaceKind {
    Replica {
        state_schema: String,
    },
    History {
        database: String,
        /// Made when it is first asked.
        connection: OnceCell<Database>,
    },
}

/// The refused events of one sink, connected.
pub(crate) struct Store {
    /// The sink.
    pub(crate) sink: String,
    kind: StoreKind,
}

enum StoreKind {
    Replica(ReplicaStore),
    History(ParkedDocuments),
}

/// A refused event and where it is.
pub(crate) struct Held<'s> {
    /// The sink that refused it, with the others.
    pub(crate) store: &'s Store,
    /// The event, without its value.
    pub(crate) event: Parked,
}

/// What there is of an id, or its beginning.
pub(crate) enum Found<'s> {
    /// Nothing.
    None,
    /// One event.
    One(Box<Held<'s>>),
    /// Several events, or one that several sinks refused. Why that is not an answer.
    Several(Trouble),
}

/// What somebody wants to become of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WantedDecision<'o> {
    /// Tried again as it is.
    Retry,
    /// Tried again with these values.
    Edit(&'o [Set]),
    /// Left out for good.
    Skip,
}

impl Dlq {
    /// Those of the configuration.
    pub(crate) fn new(config: &Loaded) -> Dlq {
        let places = config.sinks.iter().filter_map(|(name, sink)| {
            let kind = match &sink.kind {
                Kind::Postgres(settings) => PlaceKind::Replica {
                    state_schema: settings.state_schema.clone(),
                },
                Kind::MongoHistory(settings) => PlaceKind::History {
                    database: settings.database.clone(),
                    connection: OnceCell::new(),
                },
                // It parks nothing.
                Kind::MongoView(settings) => PlaceKind::History {
                    database: settings.database.clone(),
                    connection: OnceCell::new(),
                },
                // What they refuse holds nothing back, and is in the dead letters only.
                Kind::Webhook(_) | Kind::Mail(_) | Kind::Statistics(_) => return None,
            };
            Some(Place {
                name: name.clone(),
                state_name: format!("{}.{name}", config.name),
                url: sink.url.reveal().to_owned(),
                kind,
            })
        });
        Dlq(places.collect())
    }

    /// Connects to all of them, or to that of one sink.
    pub(crate) async fn open(&self, only: Option<&str>) -> Result<Vec<Store>> {
        let wanted = |place: &&Place| only.is_none_or(|only| only == place.name);
        let places: Vec<&Place> = self.0.iter().filter(wanted).collect();
        if places.is_empty() {
            let known: Vec<&str> = self.0.iter().map(|place| place.name.as_str()).collect();
            return Err(misconfigured(
                match only {
                    Some(name) => format!("no sink \"{name}\" that keeps refused events aside"),
                    None => "no sink that keeps refused events aside".to_owned(),
                },
                format!("Known: {}.", known.join(", ")),
            ));
        }
        let mut stores = Vec::with_capacity(places.len());
        for place in places {
            stores.extend(place.open().await?);
        }
        Ok(stores)
    }
}

impl Place {
    /// None for a sink that never ran: it has refused nothing.
    async fn open(&self) -> Result<Option<Store>> {
        let kind = match &self.kind {
            PlaceKind::Replica { state_schema } => {
                let (name, state_name) = (&self.name, &self.state_name);
                let replica = ReplicaStore::open(&self.url, name, state_name, state_schema).await?;
                replica.map(StoreKind::Replica)
            }
            PlaceKind::History {
                database,
                connection,
            } => {
                let connect = || mongo_history::connect_to_primary(&self.url, database);
                let database = connection.get_or_try_init(connect).await?;
                let events = ParkedDocuments::new(database, &self.state_name);
                Some(StoreKind::History(events))
            }
        };
        Ok(kind.map(|kind| Store {
            sink: self.name.clone(),
            kind,
        }))
    }
}

impl Store {
    /// The refused events whose id begins with `id`, the oldest first; with `reason` those of that reason.
    async fn refused(
        &self,
        id: &str,
        reason: Option<&str>,
        page: Option<&Page>,
    ) -> Result<Vec<Parked>> {
        let part = page.map(|page| page.part_of(&self.sink));
        match &self.kind {
            _ if part == Some(PagePart::Nothing) => Ok(Vec::new()),
            StoreKind::Replica(replica) => replica.refused(id, reason, part.as_ref()).await,
            StoreKind::History(events) => history::refused(events, id, reason, part.as_ref()).await,
        }
    }
}

impl Held<'_> {
    /// The event as it is aside now; none where it is no longer.
    pub(crate) async fn now(&self) -> Result<Option<Parked>> {
        let id = &self.event.event_id;
        let events = self.store.refused(id, None, None).await?;
        Ok(events.into_iter().find(|event| event.event_id == *id))
    }

    /// The event with its content, and what was decided about it.
    pub(crate) async fn whole(self) -> Result<Whole> {
        let body = self.body().await?;
        let actions = match &self.store.kind {
            StoreKind::Replica(replica) => replica.actions(&self.event.event_id).await?,
            StoreKind::History(events) => history::actions(events, &self.event.event_id).await?,
        };
        Ok(Whole {
            event: self.event,
            body,
            actions,
        })
    }

    async fn body(&self) -> Result<Vec<u8>> {
        match &self.store.kind {
            StoreKind::Replica(_) => Ok(self.event.record.value().unwrap_or_default().to_vec()),
            StoreKind::History(events) => history::body(events, &self.event.event_id).await,
        }
    }

    /// The decision that carries out an order; fails where the event cannot be edited so.
    pub(crate) async fn decision(&self, order: WantedDecision<'_>) -> Result<Decision> {
        Ok(match order {
            WantedDecision::Retry => Decision::Retry,
            WantedDecision::Edit(set) => {
                let set = match &self.store.kind {
                    // Its target looks at the types itself.
                    StoreKind::Replica(_) => set.to_vec(),
                    StoreKind::History(events) => {
                        let types = history::types(events, &self.event.record).await?;
                        let typed = set.iter().map(|set| set.typed(types.as_ref()));
                        typed.collect::<Result<Vec<Set>>>()?
                    }
                };
                Decision::Edit(edit(&self.body().await?, &set)?)
            }
            WantedDecision::Skip => Decision::Skip,
        })
    }

    /// Notes a decision; the active instance carries it out.
    pub(crate) async fn decide(&mut self, decision: Decision, decider: Decider<'_>) -> Result<()> {
        let id = &self.event.event_id;
        match &self.store.kind {
            StoreKind::Replica(replica) => replica.decide(id, &decision, decider).await?,
            StoreKind::History(events) => history::decide(events, id, &decision, decider).await?,
        }
        self.event.decision = Some(decision);
        Ok(())
    }
}

/// The refused events of `stores`; with `reason` those of that reason, with `page` a part of them.
pub(crate) async fn list<'s>(
    stores: &'s [Store],
    reason: Option<&str>,
    page: Option<&Page>,
) -> Result<Vec<Held<'s>>> {
    let mut listed = Vec::new();
    for store in stores {
        if page.is_some_and(|page| listed.len() >= page.limit) {
            break;
        }
        let events = store.refused("", reason, page).await?;
        listed.extend(events.into_iter().map(|event| Held { store, event }));
    }
    Ok(listed)
}

/// The refused event whose id begins with `id`.
pub(crate) async fn find<'s>(stores: &'s [Store], id: &str) -> Result<Found<'s>> {
    let mut found: Vec<Held<'s>> = Vec::new();
    for store in stores {
        let events = store.refused(id, None, None).await?;
        found.extend(events.into_iter().map(|event| Held { store, event }));
    }
    // A whole id is meant, whatever else begins with it.
    if found.iter().any(|held| held.event.event_id == id) {
        found.retain(|held| held.event.event_id == id);
    }
    Ok(match found.pop() {
        None => Found::None,
        Some(held) if found.is_empty() => Found::One(Box::new(held)),
        Some(last) => {
            found.push(last);
            Found::Several(several(id, &found))
        }
    })
}

fn several(id: &str, found: &[Held<'_>]) -> Trouble {
    const NAMED_MAX: usize = 5;
    let named = found.iter().take(NAMED_MAX);
    let named: Vec<String> = named
        .map(|held| format!("{} of {}", held.event.event_id, held.store.sink))
        .collect();
    let more = if found.len() > NAMED_MAX { ", …" } else { "" };
    misconfigured(
        format!("{id} may be any of: {}{more}", named.join(", ")),
        "Write more of the id, or name the sink (--sink NAME, over HTTP ?sink=NAME).",
    )
}
