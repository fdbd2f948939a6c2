//! In which order effects are tried: those of a key one behind the other, all others as they come.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::effect::state::event_place::EventPlace;
use crate::effect::state::unfinished::Unfinished;

/// A row: the key of its events, in their partition.
type QueueKey = (Arc<str>, i32, Option<Vec<u8>>);

/// The events whose effects are not done.
#[derive(Default)]
pub(crate) struct Queue {
    events: BTreeMap<EventPlace, Unfinished>,
    /// The events of a key, the oldest in front.
    keys: HashMap<QueueKey, VecDeque<EventPlace>>,
    /// Those in front that are not tried at present, by the time before which they are not.
    fronts: BTreeSet<(i64, EventPlace)>,
    running: HashSet<EventPlace>,
    bytes: u64,
}

impl Queue {
    /// Adds an event behind those of its key.
    pub(crate) fn push(&mut self, event: Unfinished) {
        let place = event.place();
        let of_key = self.keys.entry(key_of(&event)).or_default();
        of_key.push_back(place.clone());
        if of_key.len() == 1 {
            self.fronts.insert((event.tried.next_us, place.clone()));
        }
        self.bytes += event.size_bytes();
        self.events.insert(place, event);
    }

    /// An event that is to be tried now. It is tried until [`Queue::again`] or [`Queue::finish`].
    pub(crate) fn start(&mut self, now_us: i64) -> Option<Unfinished> {
        let due = self.fronts.first().filter(|(at, _)| *at <= now_us);
        let (at, place) = due.cloned()?;
        self.fronts.remove(&(at, place.clone()));
        self.running.insert(place.clone());
        self.events.get(&place).cloned()
    }

    /// When an event is to be tried next; none where nothing waits for a time.
    pub(crate) fn next_us(&self) -> Option<i64> {
        self.fronts.first().map(|(at, _)| *at)
    }

    /// An attempt failed: the event as it is now, to be tried again from `next_us` on.
    pub(crate) fn again(
        &mut self,
        place: &EventPlace,
        why: String,
        next_us: i64,
    ) -> Option<&Unfinished> {
        self.running.remove(place);
        let event = self.events.get_mut(place)?;
        event.tried.attempts = event.tried.attempts.saturating_add(1);
        event.tried.last_error = Some(why);
        event.tried.next_us = next_us;
        self.fronts.insert((next_us, place.clone()));
        Some(event)
    }

    /// An event is done: the next one of its key is in front.
    pub(crate) fn finish(&mut self, place: &EventPlace) {
        self.running.remove(place);
        let Some(event) = self.events.remove(place) else {
            return;
        };
        self.bytes -= event.size_bytes();
        self.fronts.remove(&(event.tried.next_us, place.clone()));
        let key = key_of(&event);
        let Some(of_key) = self.keys.get_mut(&key) else {
            return;
        };
        let was_front = of_key.front() == Some(place);
        of_key.retain(|other| other != place);
        match of_key.front() {
            None => drop(self.keys.remove(&key)),
            Some(front) if was_front && !self.running.contains(front) => {
                let next_us = self
                    .events
                    .get(front)
                    .map_or(0, |event| event.tried.next_us);
                self.fronts.insert((next_us, front.clone()));
            }
            Some(_) => {}
        }
    }

    /// Has an event tried at once; the event as it is now, none if it waits behind another one.
    pub(crate) fn hurry(&mut self, place: &EventPlace) -> Option<&Unfinished> {
        let event = self.events.get_mut(place)?;
        if !self.fronts.remove(&(event.tried.next_us, place.clone())) {
            return None;
        }
        event.tried.next_us = 0;
        self.fronts.insert((0, place.clone()));
        Some(event)
    }

    /// An event is about to be left out, and is not tried meanwhile.
    pub(crate) fn hold(&mut self, place: &EventPlace) -> Option<&Unfinished> {
        let event = self.events.get(place)?;
        self.fronts.remove(&(event.tried.next_us, place.clone()));
        self.running.insert(place.clone());
        Some(event)
    }

    /// The event at a place.
    pub(crate) fn get(&self, place: &EventPlace) -> Option<&Unfinished> {
        self.events.get(place)
    }

    /// Whether an event is tried at present.
    pub(crate) fn is_running(&self, place: &EventPlace) -> bool {
        self.running.contains(place)
    }

    /// Events that are not done.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Bytes of them.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.bytes
    }

    /// When the one was read that waits longest, microseconds since 1970.
    pub(crate) fn oldest_us(&self) -> Option<i64> {
        // Of each key the front is the oldest, and those not in front are read later.
        let fronts = self.keys.values().filter_map(VecDeque::front);
        let events = fronts.filter_map(|place| self.events.get(place));
        events.map(|event| event.tried.read_us).min()
    }
}

/// The row that an event is about.
pub(crate) fn key_of(event: &Unfinished) -> QueueKey {
    let record = &event.record;
    let key = record.key().map(<[u8]>::to_vec);
    (Arc::clone(&record.topic), record.partition, key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::record::Record;

    fn event(offset: i64, key: &str) -> Unfinished {
        let (key, value) = (Some(key.as_bytes()), Some(&b"{}"[..]));
        let record = Record::new("t".into(), 0, offset, key, value, std::iter::empty());
        Unfinished::new(record, offset)
    }

    fn queue(keys: &[&str]) -> Queue {
        let mut queue = Queue::default();
        for (offset, key) in (0..).zip(keys) {
            queue.push(event(offset, key));
        }
        queue
    }

    fn started(queue: &mut Queue, now_us: i64) -> Vec<i64> {
        let mut offsets = Vec::new();
        while let Some(event) = queue.start(now_us) {
            offsets.push(event.record.offset);
        }
        offsets
    }

    fn place(offset: i64) -> EventPlace {
        event(offset, "").place()
    }

    #[test]
    fn the_events_of_a_key_go_one_behind_the_other() {
        let mut queue = queue(&["a", "b", "a", "a"]);
        assert_eq!(started(&mut queue, 0), [0, 1]);
        queue.finish(&place(0));
        assert_eq!(started(&mut queue, 0), [2]);
        queue.finish(&place(1));
        queue.finish(&place(2));
        assert_eq!(started(&mut queue, 0), [3]);
        queue.finish(&place(3));
        assert_eq!((queue.len(), queue.size_bytes()), (0, 0));
        assert!(queue.keys.is_empty() && queue.fronts.is_empty() && queue.running.is_empty());
    }

    #[test]
    fn only_the_key_waits_whose_attempt_failed() {
        let mut queue = queue(&["a", "a", "b"]);
        assert_eq!(started(&mut queue, 0), [0, 2]);
        let again = queue.again(&place(0), "it hangs".into(), 50).unwrap();
        assert_eq!((again.tried.attempts, again.tried.next_us), (1, 50));
        queue.finish(&place(2));
        assert_eq!(queue.next_us(), Some(50));
        assert!(started(&mut queue, 49).is_empty());
        assert_eq!(started(&mut queue, 50), [0]);
    }

    #[test]
    fn what_is_skipped_lets_the_next_one_pass() {
        let mut queue = queue(&["a", "a", "a"]);
        started(&mut queue, 0);
        queue.again(&place(0), String::new(), 90);
        assert!(queue.hold(&place(1)).is_some());
        queue.finish(&place(1));
        assert!(started(&mut queue, 0).is_empty());
        queue.finish(&place(0));
        assert_eq!(started(&mut queue, 0), [2]);
        let mut queue = self::queue(&["a", "a"]);
        started(&mut queue, 0);
        queue.hold(&place(1));
        queue.finish(&place(0));
        assert!(started(&mut queue, 0).is_empty(), "it is being left out");
    }

    #[test]
    fn only_the_front_can_hurry() {
        let mut queue = queue(&["a", "a"]);
        started(&mut queue, 0);
        assert!(queue.hurry(&place(0)).is_none(), "it runs");
        queue.again(&place(0), String::new(), 90);
        assert!(queue.hurry(&place(1)).is_none(), "it is behind");
        assert!(queue.hurry(&place(0)).is_some());
        assert_eq!(started(&mut queue, 1), [0]);
        assert_eq!(queue.oldest_us(), Some(0));
    }
}
