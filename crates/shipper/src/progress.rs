//! How far events are acknowledged, on its way from those who know it to those who write it into Kafka.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use change::position::{Ends, Events};

use crate::board::Board;

/// How far events are acknowledged. `done` is none where only the restart point moved.
#[derive(Debug, Clone)]
pub struct Progress {
    pub timeline: u32,
    pub restart_lsn: u64,
    pub done: Option<Done>,
    /// Topics whose ends are not ours any more: given up by order.
    pub forget: Vec<String>,
}

/// The newest transaction whose events are acknowledged, and where the topics ended then that had events since the one before.
#[derive(Debug, Clone)]
pub struct Done {
    pub commit_lsn: u64,
    pub nonce: [u8; 16],
    /// Its events; fewer are done only where Kafka transactions hold parts of large ones.
    pub events: Events,
    /// Microseconds since 2000-01-01.
    pub commit_us: i64,
    pub ends: BTreeMap<String, Ends>,
}

impl Done {
    /// The same, with the ends of an older one that nobody has taken.
    pub(crate) fn after(mut self, older: Option<Done>) -> Done {
        if let Some(Done { mut ends, .. }) = older {
            ends.append(&mut self.ends);
            self.ends = ends;
        }
        self
    }
}

/// The newest progress, waiting to be written: older ones are of no interest.
pub struct Progresses {
    newest: Mutex<Numbered>,
    board: Arc<Board>,
    /// The Kafka thread writes it, and is woken for it.
    by_kafka_thread: bool,
}

#[derive(Default)]
struct Numbered {
    /// Of the newest progress that was ever offered.
    number: u64,
    progress: Option<Progress>,
}

impl Progresses {
    pub fn new(board: Arc<Board>, by_kafka_thread: bool) -> Progresses {
        Progresses {
            newest: Mutex::default(),
            board,
            by_kafka_thread,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a newer progress; its number is in [`crate::facts::Durable`] once it is written, or one after it.
    pub fn offer(&self, progress: Progress) -> u64 {
        let mut newest = self.lock();
        newest.number += 1;
        let number = newest.number;
        let (older, mut forget) = match newest.progress.take() {
            Some(older) => (older.done, older.forget),
            None => Default::default(),
        };
        forget.extend(progress.forget);
        newest.progress = Some(Progress {
            done: match progress.done {
                Some(done) => Some(done.after(older)),
                None => older,
            },
            forget,
            ..progress
        });
        drop(newest);
        self.board.tell(|_| {});
        if self.by_kafka_thread {
            self.board.kafka_wake.signal();
        }
        number
    }

    /// The newest progress, and the number of the newest that was ever offered.
    pub(crate) fn take(&self) -> (u64, Option<Progress>) {
        let mut newest = self.lock();
        (newest.number, newest.progress.take())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().progress.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(commit_lsn: u64, topic: &str, end: i64) -> Progress {
        let ends = Ends {
            topic_id: String::new(),
            partitions: 1,
            end: vec![end],
            database: 0,
            untracked: false,
            control: None,
        };
        Progress {
            timeline: 1,
            restart_lsn: commit_lsn,
            done: Some(Done {
                commit_lsn,
                nonce: [0; 16],
                events: Events { done: 1, of: 1 },
                commit_us: 0,
                ends: BTreeMap::from([(topic.to_owned(), ends)]),
            }),
            forget: Vec::new(),
        }
    }

    #[test]
    fn the_newest_progress_has_the_ends_of_those_that_nobody_took() {
        let board = Arc::new(Board::new().unwrap());
        let progresses = Progresses::new(board, false);
        progresses.offer(done(1, "a", 10));
        progresses.offer(done(2, "b", 20));
        progresses.offer(done(3, "a", 11));
        progresses.offer(Progress {
            timeline: 1,
            restart_lsn: 9,
            done: None,
            forget: vec!["c".to_owned()],
        });
        let (number, newest) = progresses.take();
        let newest = newest.unwrap();
        assert_eq!((number, newest.restart_lsn), (4, 9));
        assert_eq!(newest.forget, ["c"]);
        let done = newest.done.unwrap();
        let ends = done
            .ends
            .iter()
            .map(|(topic, ends)| (topic.as_str(), ends.end[0]));
        assert_eq!(ends.collect::<Vec<_>>(), [("a", 11), ("b", 20)]);
        assert_eq!(done.commit_lsn, 3);
        assert!(progresses.is_empty());
    }
}
