//! Where an event goes: to the partition of its key, into the control topic, or nowhere.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use change::event::record::{Destination, Event, Sent, Stage};
use change::event::renderer::controls::Controls;
use change::event::snapshot_chunk::Judged;
use change::partition::partition_of;
use change::trouble::Trouble;

use super::broker::Broker;
use super::failed_delivery::{BATCH_OVERHEAD_BYTES, event_id, too_large};
use super::opening::{self, Opened};
use super::outgoing::Outgoing;
use super::stop::Stop;
use super::withheld::{Reason, WithheldTopics};
use crate::aside;
use crate::trouble::Failure;
use crate::work::{Beginning, Known};

/// An event that is not sent need not be rendered whole.
const UNSENT_ROOM: Sent = Sent::Room {
    limit_bytes: 1024 * 1024,
    stubs: true,
};

/// All control events are in one partition, in one order.
const CONTROL_PARTITION: i32 = 0;

/// Takes the events of one transaction after the other.
pub(super) struct Router<'a, B> {
    out: Outgoing<'a, B>,
    known: Known,
    /// Shared with whoever renders.
    withheld: Rc<WithheldTopics>,
    /// Events of the transaction at hand that are in Kafka from an earlier session.
    left_out: u64,
}

impl<'a, B: Broker> Router<'a, B> {
    pub(super) fn new(out: Outgoing<'a, B>) -> Router<'a, B> {
        Router {
            out,
            known: Known::default(),
            withheld: Rc::default(),
            left_out: 0,
        }
    }

    pub(super) fn out(&mut self) -> &mut Outgoing<'a, B> {
        &mut self.out
    }

    /// What is not sent of topics, as it is now.
    pub(super) fn withheld(&self) -> Rc<WithheldTopics> {
        Rc::clone(&self.withheld)
    }

    /// Takes in what is known of topics.
    pub(super) fn know(&mut self, known: Known) {
        let withheld = Rc::make_mut(&mut self.withheld);
        known.skips.iter().for_each(|skip| withheld.skip(skip));
        known.asides.iter().for_each(|aside| withheld.note(aside));
        let counters = self.out.session().host.topic_counters;
        let mut topics = known.ends.iter();
        // Until there is no room for more.
        let _all = topics.all(|(topic, ends)| counters.claim_for(topic, ends.database));
        self.known = known;
    }

    /// The newest control events about topics, as the position has them.
    pub(super) fn controls(&self) -> Controls {
        let ends = self.known.ends.iter();
        let newest = ends.filter_map(|(topic, ends)| {
            let control = ends.control.as_ref()?;
            Some((topic.clone(), control.version.clone()))
        });
        Controls::new(newest.collect())
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self, beginning: &Beginning) {
        self.left_out = match self.known.part {
            Some((lsn, done)) if lsn == beginning.commit.lsn => done,
            _ => 0,
        };
        self.out.begin(beginning);
    }

    /// It had so many events.
    pub(super) fn end(&mut self, found: u64, judged: Option<Judged>) -> Result<(), Stop> {
        self.out.end(found, judged)
    }

    /// Takes a record of the transaction at hand.
    pub(super) fn send(&mut self, event: &Event<'_>) -> Result<Sent, Stop> {
        if event.sequence <= self.left_out {
            self.out.leave_out_event(event.sequence);
            return Ok(match event.stage {
                Stage::Asked => UNSENT_ROOM,
                Stage::Sent | Stage::Unsendable { .. } | Stage::PassedOver => Sent::Taken,
            });
        }
        self.out.begin_event(event.sequence)?;
        let topic = match self.open(event.topic)? {
            Ok(topic) => topic,
            Err(reason) => return Ok(self.withhold(event, reason)),
        };
        match event.destination {
            Destination::Topic => self.send_into(event, topic),
            // The table's topic is there before anything is said of it, and what is not sent into it is not sent of it.
            Destination::Control(control) => match self.open(control.topic)? {
                Ok(control) => self.send_into(event, control),
                Err(reason) => Ok(self.withhold(event, reason)),
            },
        }
    }

    /// Opens a topic, if it is not open; why nothing is sent into it.
    fn open(&mut self, name: &str) -> Result<Result<usize, Reason>, Stop> {
        if let Some(reason) = self.withheld.reason(name, self.out.commit_lsn()) {
            return Ok(Err(reason));
        }
        if let Some(topic) = self.out.topics().index_of(name) {
            return Ok(Ok(topic));
        }
        match opening::open(&mut self.out, &self.known, name)? {
            Opened::Topic(topic) => Ok(Ok(topic)),
            Opened::Unusable(trouble) => {
                self.put_aside(name, trouble)?;
                Ok(Err(Reason::PutAside))
            }
        }
    }

    /// Sends an event into an open topic, if it is not too large for it.
    fn send_into(&mut self, event: &Event<'_>, index: usize) -> Result<Sent, Stop> {
        let Some(topic) = self.out.topics().get(index) else {
            return Ok(Sent::Taken);
        };
        let (max_record_bytes, partitions) = (topic.limit.max_record_bytes, topic.partitions);
        let stubs = self.out.session().settings.stubs;
        let besides =
            event.headers.size_bytes() + event.key.map_or(0, <[u8]>::len) + BATCH_OVERHEAD_BYTES;
        let limit_bytes = max_record_bytes.saturating_sub(besides);
        let bytes = match event.stage {
            Stage::Sent => event.value.map_or(0, <[u8]>::len),
            Stage::Unsendable { bytes } => bytes,
            // Withheld before.
            Stage::PassedOver => return Ok(Sent::Taken),
            Stage::Asked => return Ok(Sent::Room { limit_bytes, stubs }),
        };
        if bytes > limit_bytes || matches!(event.stage, Stage::Unsendable { .. }) {
            if stubs && event.can_shrink {
                return Ok(Sent::TooLarge { limit_bytes });
            }
            if stubs || event.stage != Stage::Sent {
                self.refuse(event, bytes)?;
                return Ok(self.withhold(event, Reason::PutAside));
            }
        }
        match event.destination {
            Destination::Topic => {
                let partition = partition_of(event.key, partitions);
                self.out.produce(event, index, partition)?;
            }
            Destination::Control(control) => {
                self.out.produce(event, index, CONTROL_PARTITION)?;
                self.out.note_control(event.topic, control);
            }
        }
        Ok(Sent::Taken)
    }

    /// Counts an event that is not sent. It need not be rendered whole for that.
    fn withhold(&self, event: &Event<'_>, reason: Reason) -> Sent {
        if event.stage == Stage::Asked {
            return UNSENT_ROOM;
        }
        if event.value.is_none() {
            return Sent::Taken;
        }
        let host = self.out.session().host;
        match reason {
            Reason::GivenUp => {
                host.skipped_events.fetch_add(1, Ordering::Relaxed);
            }
            Reason::PutAside => {
                if let Some(counter) = host.topic_counters.claim(event.topic) {
                    counter.count_aside();
                }
            }
        }
        Sent::Taken
    }

    /// Puts a topic aside: what it cannot take stops nobody else. Goes on when that is noted for good, before any position
    /// that is beyond it.
    fn put_aside(&mut self, topic: &str, trouble: Trouble) -> Result<(), Stop> {
        let (from, database) = (self.out.commit_lsn(), self.out.database());
        let board = &self.out.session().board;
        let aside = aside::new(topic, from, database, trouble);
        board.tell(|facts| facts.aside_wanted = Some(Box::new(aside)));
        while !board.with_facts(|facts| facts.asides.contains_key(topic)) {
            self.out.serve_and_wait()?;
        }
        Rc::make_mut(&mut self.withheld).put_aside(topic, from);
        Ok(())
    }

    /// An event that its topic does not take, and that cannot become smaller.
    fn refuse(&mut self, event: &Event<'_>, bytes: usize) -> Result<(), Stop> {
        let id = event_id(event);
        if self.out.session().settings.stubs {
            let trouble = aside::too_large(&id, bytes, event.topic);
            return self.put_aside(event.topic, trouble);
        }
        let trouble = too_large(&id, bytes, event.topic);
        Err(self.out.end_with(Failure::Halt(trouble)))
    }
}
