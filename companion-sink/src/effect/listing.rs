//! The effects of all sinks that are not done, as people see them, and what people decide about them: for the command
//! (`cli/effects.rs`) and over HTTP (`http/effects.rs`). The active instance carries decisions out.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use change::trouble::Trouble;
use rdkafka::ClientConfig;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::config::Loaded;
use crate::effect::order::{Order, Wanted, send};
use crate::effect::queue::key_of;
use crate::effect::state::journal::blocking;
use crate::effect::state::topics::{EffectTopics, read_state};
use crate::effect::state::unfinished::Unfinished;
use crate::error::{Result, misconfigured};
use crate::kafka::client;
use crate::rejected::page::{Page, PageCursor};
use crate::timestamp::{now_us, rfc3339};

/// For reading a state.
const MEMORY_BYTES: u64 = 8 << 20;
/// As long is waited for what comes of an order.
const WAIT: Duration = Duration::from_secs(5);
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// The sinks whose events have effects.
pub(crate) struct EffectSinks {
    sinks: Vec<(String, EffectTopics)>,
    writing: ClientConfig,
    reading: ClientConfig,
}

/// What an effect waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitState {
    /// Its first attempt.
    Waiting,
    /// Its next attempt.
    Retrying,
    /// An earlier event of its key.
    Behind,
}

/// An effect that is not done.
pub(crate) struct ListedEffect {
    /// The sink.
    pub(crate) sink: String,
    /// The event, and what was tried.
    pub(crate) event: Unfinished,
    /// What it waits for.
    pub(crate) state: WaitState,
}

/// A page of the effects that are not done.
pub(crate) struct ListedPage {
    /// The effects.
    pub(crate) effects: Vec<ListedEffect>,
    /// How many there are on all pages.
    pub(crate) total: usize,
    /// What to ask for next; none behind the last one.
    pub(crate) next: Option<String>,
}

/// Who decides, and why.
pub(crate) struct Decider<'d> {
    pub(crate) by: &'d str,
    pub(crate) reason: Option<&'d str>,
}

impl WaitState {
    /// All of them.
    pub(crate) const ALL: [WaitState; 3] =
        [WaitState::Waiting, WaitState::Retrying, WaitState::Behind];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            WaitState::Waiting => "waiting",
            WaitState::Retrying => "retrying",
            WaitState::Behind => "behind",
        }
    }

    /// The one of a name.
    pub(crate) fn parse(name: &str) -> Result<WaitState> {
        let found = WaitState::ALL
            .into_iter()
            .find(|state| state.name() == name);
        found.ok_or_else(|| {
            let names = WaitState::ALL.map(WaitState::name).join(", ");
            misconfigured(format!("no state \"{name}\""), format!("Known: {names}."))
        })
    }
}

impl ListedEffect {
    /// The event's id.
    pub(crate) fn id(&self) -> &str {
        self.event.id()
    }

    /// The key, for people.
    pub(crate) fn key_text(&self) -> String {
        let key = self.event.record.key().unwrap_or_default();
        String::from_utf8_lossy(key).into_owned()
    }

    /// When it is tried next, RFC 3339; none for at once.
    pub(crate) fn next_attempt(&self) -> Option<String> {
        let next_us = self.event.tried.next_us;
        (next_us > 0).then(|| rfc3339(next_us))
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let (record, tried) = (&self.event.record, &self.event.tried);
        json!({
            "id": self.id(), "sink": self.sink, "state": self.state.name(), "op": record.op_text(),
            "topic": &*record.topic, "partition": record.partition, "offset": record.offset, "key": self.key_text(),
            "attempts": tried.attempts, "read_at": rfc3339(tried.read_us), "next_attempt": self.next_attempt(),
            "last_error": tried.last_error,
        })
    }
}

impl EffectSinks {
    /// Those of the configuration.
    pub(crate) fn new(config: &Loaded) -> EffectSinks {
        let sinks = config.sinks.iter();
        let sinks = sinks.filter(|(_, sink)| sink.kind.effect().is_some());
        EffectSinks {
            sinks: sinks
                .map(|(name, _)| (name.clone(), EffectTopics::of(&config.name, name)))
                .collect(),
            writing: client::base(config),
            reading: client::consumer(config, &format!("{}.effects", config.name), MEMORY_BYTES),
        }
    }

    /// The effects that are not done, of all sinks or of one; the oldest first of each partition.
    pub(crate) async fn list(&self, only: Option<&str>) -> Result<Vec<ListedEffect>> {
        let is_wanted = |(name, _): &&(String, EffectTopics)| only.is_none_or(|only| only == name);
        let wanted: Vec<_> = self.sinks.iter().filter(is_wanted).cloned().collect();
        if let (Some(only), true) = (only, wanted.is_empty()) {
            let known: Vec<&str> = self.sinks.iter().map(|(name, _)| name.as_str()).collect();
            return Err(misconfigured(
                format!("no sink \"{only}\" of kind webhook or mail in the configuration"),
                format!("Known: {}.", known.join(", ")),
            ));
        }
        let mut listed = Vec::new();
        for (name, topics) in wanted {
            let client = self.reading.clone();
            // None for a sink that never ran.
            let state = blocking(move || read_state(&client, &topics.state)).await?;
            let events = state.unwrap_or_default().events.into_values();
            listed.extend(with_states(&name, events));
        }
        Ok(listed)
    }

    /// A page of them, if `state` is given of those alone.
    pub(crate) async fn page(
        &self,
        only: Option<&str>,
        state: Option<WaitState>,
        page: &Page,
    ) -> Result<ListedPage> {
        let mut effects = self.list(only).await?;
        effects.retain(|effect| state.is_none_or(|state| state == effect.state));
        let total = effects.len();
        effects.retain(|effect| page.begins_before(&effect.sink, &effect.event.record));
        let has_more = effects.len() > page.limit;
        effects.truncate(page.limit);
        let last = effects.last().filter(|_| has_more);
        Ok(ListedPage {
            next: last.map(|last| PageCursor::of(&last.sink, &last.event.record).text()),
            effects,
            total,
        })
    }

    /// Those whose id is, or begins with, `id`: one, unless several begin so.
    pub(crate) async fn find(&self, only: Option<&str>, id: &str) -> Result<Vec<ListedEffect>> {
        let mut found = self.list(only).await?;
        found.retain(|effect| effect.id().starts_with(id));
        // A whole id is meant, whatever else begins with it.
        if found.iter().any(|effect| effect.id() == id) {
            found.retain(|effect| effect.id() == id);
        }
        Ok(found)
    }

    /// Orders what is to become of effects.
    pub(crate) async fn order(
        &self,
        effects: &[ListedEffect],
        order: Wanted,
        decider: &Decider<'_>,
    ) -> Result<()> {
        for (name, topics) in &self.sinks {
            let of_sink = effects.iter().filter(|effect| effect.sink == *name);
            let orders: Vec<Order> = of_sink
                .map(|effect| Order {
                    order,
                    event: effect.event.place(),
                    by: decider.by.to_owned(),
                    reason: decider.reason.map(str::to_owned),
                    at: rfc3339(now_us()),
                })
                .collect();
            if !orders.is_empty() {
                send(&self.writing, &topics.orders, orders).await?;
            }
        }
        Ok(())
    }

    /// Waits a moment for what comes of orders about `effects`: for each a text.
    pub(crate) async fn outcomes(&self, effects: &[ListedEffect]) -> Result<Vec<String>> {
        let until = Instant::now() + WAIT;
        loop {
            let now = self.list(None).await?;
            let now: HashMap<_, _> = now
                .iter()
                .map(|effect| ((effect.sink.as_str(), effect.event.place()), effect))
                .collect();
            let found = effects.iter().map(|effect| {
                let now = now.get(&(effect.sink.as_str(), effect.event.place()));
                outcome(effect, now.copied())
            });
            let found: Vec<Option<String>> = found.collect();
            let is_late = Instant::now() >= until;
            if is_late || found.iter().all(Option::is_some) {
                let noted =
                    || "noted, and not carried out yet (`companion-sink status`)".to_owned();
                return Ok(found
                    .into_iter()
                    .map(|text| text.unwrap_or_else(noted))
                    .collect());
            }
            sleep(LOOK_PAUSE).await;
        }
    }
}

/// What came of an order about an effect; none if nothing yet.
fn outcome(before: &ListedEffect, now: Option<&ListedEffect>) -> Option<String> {
    let Some(now) = now else {
        return Some("done".to_owned());
    };
    (now.event.tried.attempts > before.event.tried.attempts).then(|| {
        let why = now.event.tried.last_error.as_deref().unwrap_or_default();
        format!("failed again: {why}")
    })
}

/// Why several effects are no answer to an id.
pub(crate) fn several(id: &str, found: &[ListedEffect]) -> Trouble {
    const NAMED_MAX: usize = 5;
    let named = found.iter().take(NAMED_MAX);
    let named: Vec<String> = named
        .map(|effect| format!("{} of {}", effect.id(), effect.sink))
        .collect();
    let more = if found.len() > NAMED_MAX { ", …" } else { "" };
    misconfigured(
        format!("{id} may be any of: {}{more}", named.join(", ")),
        "Write more of the id, or name the sink (--sink NAME, over HTTP ?sink=NAME).",
    )
}

/// What each of a sink's events, in the order of their places, waits for.
fn with_states(sink: &str, events: impl Iterator<Item = Unfinished>) -> Vec<ListedEffect> {
    let mut keys = HashSet::new();
    let listed = events.map(|event| {
        let state = match (keys.insert(key_of(&event)), event.tried.attempts) {
            (false, _) => WaitState::Behind,
            (true, 0) => WaitState::Waiting,
            (true, _) => WaitState::Retrying,
        };
        ListedEffect {
            sink: sink.to_owned(),
            event,
            state,
        }
    });
    listed.collect()
}
