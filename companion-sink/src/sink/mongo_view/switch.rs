//! What a rebuild has built takes the place of a view.
//!
//! The rebuild holds the view first: in another epoch its sink cannot begin a batch. When the batch that was under way is over, and
//! what was built has come as far as the view was, the rebuild decides. From then on whoever comes carries it on, in steps of
//! which each may be the last: the documents, the rows, the positions, the state.

use std::collections::HashSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{Error as MongoError, ErrorKind};
use mongodb::options::ReplaceOptions;
use mongodb::{Collection, Database};

use crate::error::Result;
use crate::sink::mongo_history::failure::{classify, is_missing_collection};
use crate::sink::mongo_history::write::offsets::Offsets;
use crate::sink::mongo_view::names::ViewNames;
use crate::sink::mongo_view::target::state::{States, Switch, ViewState};

/// Documents that are copied at once.
const PAGE: usize = 500;
/// How long a batch may be under way whose sink is gone, as far as can be told.
const BATCH_MAX: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often somebody who has the view says so: a sink that hears nothing for a minute takes them for gone.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);

/// Copies the documents of the view to where they are kept until somebody drops them.
pub(crate) async fn keep_old(database: &Database, view: &ViewNames) -> Result<()> {
    let failed = |error| classify("copying the view's documents", &error);
    let old: Collection<Document> = database.collection(&view.old());
    old.drop().await.map_err(failed)?;
    let mut found = database
        .collection::<Document>(&view.documents)
        .find(doc! {})
        .await
        .map_err(failed)?;
    let mut page = Vec::with_capacity(PAGE);
    loop {
        let next = found.try_next().await.map_err(failed)?;
        let is_last = next.is_none();
        page.extend(next);
        if !page.is_empty() && (is_last || page.len() == PAGE) {
            old.insert_many(std::mem::take(&mut page))
                .await
                .map_err(failed)?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Drops what [`keep_old`] kept; whether there was anything.
pub(crate) async fn drop_old(database: &Database, view: &ViewNames) -> Result<bool> {
    let was_there = is_there(database, &view.old()).await?;
    drop_collection(database, &view.old()).await?;
    Ok(was_there)
}

/// Drops what a rebuild has built, and forgets all that it noted.
pub(crate) async fn drop_built(database: &Database, view: &ViewNames) -> Result<()> {
    let built = view.rebuilt();
    Offsets::new(database, &built.state).forget().await?;
    States::new(database, &built.state).forget().await?;
    drop_collection(database, &built.documents).await?;
    drop_collection(database, &built.rows).await
}

/// Holds the view, and waits until the batch that is under way is over; the state then. A switch that was decided is carried on
/// first.
pub(crate) async fn hold(database: &Database, view: &ViewNames) -> Result<ViewState> {
    let states = States::new(database, &view.state);
    let state = states.hold().await?;
    let offsets = Offsets::new(database, &view.state);
    let began = Instant::now();
    while began.elapsed() < BATCH_MAX {
        let newest = offsets.all().await?.into_iter();
        let newest = newest.map(|(_, position)| position.version).max();
        if newest.unwrap_or_default() >= state.rows_up_to {
            break;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(state)
}

/// Works with the view held, and says so as long as that takes. Fails when somebody else has taken the view (CDC1009).
pub(crate) async fn while_held<T>(
    database: &Database,
    view: &ViewNames,
    held: &mut ViewState,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let states = States::new(database, &view.state);
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(RENEW_INTERVAL) => renew(&states, held).await?,
        }
    }
}

/// Begins another epoch, in which who had the one before writes nothing.
async fn renew(states: &States, held: &mut ViewState) -> Result<()> {
    let before = held.epoch;
    held.epoch += 1;
    states.write_from(before, held).await
}

/// Lets the view go on as it was.
pub(crate) async fn release(database: &Database, view: &ViewNames, held: &ViewState) -> Result<()> {
    let state = ViewState {
        epoch: held.epoch + 1,
        switch: Switch::None,
        ..held.clone()
    };
    let states = States::new(database, &view.state);
    states.write_from(held.epoch, &state).await
}

/// From here on what was built has the view's place.
pub(crate) async fn decide(database: &Database, view: &ViewNames, held: &ViewState) -> Result<()> {
    let state = ViewState {
        switch: Switch::Decided,
        ..held.clone()
    };
    let states = States::new(database, &view.state);
    states.write_from(held.epoch, &state).await?;
    carry_on(database, view).await
}

/// Carries on what was decided. Whoever does that begins an epoch of their own.
pub(crate) async fn carry_on(database: &Database, view: &ViewNames) -> Result<()> {
    let built = view.rebuilt();
    let states = States::new(database, &view.state);
    let mut decided = states.read().await?;
    if decided.switch != Switch::Decided {
        return Ok(());
    }
    renew(&states, &mut decided).await?;
    let replace = async {
        replace(database, &built.documents, &view.documents, Readers::Some).await?;
        replace(database, &built.rows, &view.rows, Readers::None).await
    };
    while_held(database, view, &mut decided, replace).await?;
    let offsets = Offsets::new(database, &view.state);
    let of_built = Offsets::new(database, &built.state);
    let positions = of_built.all().await?;
    offsets.forget().await?;
    offsets.begin_at(&positions).await?;
    let state = ViewState {
        epoch: decided.epoch + 1,
        switch: Switch::None,
        ..States::new(database, &built.state).read().await?
    };
    states.write_from(decided.epoch, &state).await?;
    drop_built(database, view).await
}

/// Whether somebody reads a collection, who is never to find it missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    Some,
    None,
}

/// A collection takes the place of another one; one that is not there has done so already.
async fn replace(database: &Database, from: &str, to: &str, readers: Readers) -> Result<()> {
    if !is_there(database, from).await? {
        return Ok(());
    }
    let mut renamed = rename(database, from, to, true).await;
    if renamed.as_ref().is_err_and(cannot_drop) {
        if readers == Readers::Some {
            return copy_over(database, from, to).await;
        }
        drop_collection(database, to).await?;
        renamed = rename(database, from, to, false).await;
    }
    match renamed {
        Err(error) if !is_missing_collection(&error) => {
            Err(classify("renaming a collection of the view", &error))
        }
        _ => Ok(()),
    }
}

/// Drops what a rebuild has built, unless it was decided.
pub(crate) async fn drop_undecided(database: &Database, view: &ViewNames) -> Result<()> {
    let state = States::new(database, &view.state).read().await?;
    match state.switch {
        Switch::Decided => Ok(()),
        Switch::None | Switch::Held => drop_built(database, view).await,
    }
}

/// Renames a collection; `drops` the one that has the name, at once.
async fn rename(
    database: &Database,
    from: &str,
    to: &str,
    drops: bool,
) -> std::result::Result<(), MongoError> {
    let in_database = |name: &str| format!("{}.{name}", database.name());
    let mut command = doc! { "renameCollection": in_database(from), "to": in_database(to) };
    if drops {
        command.insert("dropTarget", true);
    }
    let admin = database.client().database("admin");
    admin.run_command(command).await.map(drop)
}

/// Whether a server cannot rename onto a collection that is there.
fn cannot_drop(error: &MongoError) -> bool {
    const NOT_IMPLEMENTED: i32 = 238;
    matches!(error.kind.as_ref(), ErrorKind::Command(command) if command.code == NOT_IMPLEMENTED)
}

/// Brings the documents of one collection to those of another one, each at once: for servers that cannot rename onto a collection.
async fn copy_over(database: &Database, from: &str, to: &str) -> Result<()> {
    let failed = |error| classify("copying the view's documents", &error);
    let from: Collection<Document> = database.collection(from);
    let to: Collection<Document> = database.collection(to);
    let mut there = HashSet::new();
    let mut found = from.find(doc! {}).await.map_err(failed)?;
    let upsert = ReplaceOptions::builder().upsert(true).build();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        let id = document.get("_id").cloned().unwrap_or(Bson::Null);
        there.insert(id.to_string());
        to.replace_one(doc! { "_id": id }, document)
            .with_options(upsert.clone())
            .await
            .map_err(failed)?;
    }
    let ids = to.find(doc! {}).projection(doc! { "_id": 1 }).await;
    let mut ids = ids.map_err(failed)?;
    let mut gone = Vec::new();
    while let Some(document) = ids.try_next().await.map_err(failed)? {
        let id = document.get("_id").cloned().unwrap_or(Bson::Null);
        if !there.contains(&id.to_string()) {
            gone.push(id);
        }
    }
    for gone in gone.chunks(PAGE) {
        to.delete_many(doc! { "_id": { "$in": gone } })
            .await
            .map_err(failed)?;
    }
    from.drop().await.map_err(failed)
}

async fn is_there(database: &Database, collection: &str) -> Result<bool> {
    let names = database.list_collection_names().await;
    let names = names.map_err(|error| classify("listing the collections", &error))?;
    Ok(names.iter().any(|name| name == collection))
}

async fn drop_collection(database: &Database, name: &str) -> Result<()> {
    match database.collection::<Document>(name).drop().await {
        Ok(()) => Ok(()),
        Err(error) if is_missing_collection(&error) => Ok(()),
        Err(error) => Err(classify("dropping a collection", &error)),
    }
}
