//! The partitions that this instance owns: a thread for each, which alone writes its log and its store.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use service::problem::Problem;
use tokio::sync::oneshot;

use crate::command::{Command, Done};
use crate::log::{Failed, Log, Record};
use crate::owners::Owners;
use crate::store::{self, Step, Store, View};
use crate::topics::{Result, Topic};

/// Requests that are one transaction at most.
const BATCH: usize = 1000;
/// How often the disk is waited for, and an idle partition looks after itself.
const TICK: Duration = Duration::from_secs(1);
/// How often an idle store is written, so that its file shows that it misses nothing.
const TOUCH: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

type Answer<T> = std::result::Result<T, Problem>;

/// What a partition is asked.
enum Request {
    /// Change something.
    Change(Command, oneshot::Sender<Answer<Done>>),
    /// Show everything that was answered before now.
    Look(oneshot::Sender<View>),
}

/// The partitions of this instance.
pub(crate) struct Partitions {
    owners: Arc<Owners>,
    folder: PathBuf,
    /// How often something is written to a partition only to have it compacted.
    roll_every: Duration,
    open: Mutex<BTreeMap<i32, Handle>>,
}

/// One that is owned; it ends when this is dropped.
struct Handle {
    requests: Sender<Request>,
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

/// How far a partition is.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) serves: AtomicBool,
    /// Records of the topics: read, and to be read.
    pub(crate) read: AtomicU64,
    pub(crate) to_read: AtomicU64,
    closing: AtomicBool,
}

impl Partitions {
    /// None yet. Files that may have missed a tombstone are removed.
    pub(crate) fn new(
        owners: Arc<Owners>,
        folder: PathBuf,
        roll_every: Duration,
    ) -> Result<Partitions> {
        std::fs::create_dir_all(&folder)?;
        let partitions = Partitions {
            owners,
            folder,
            roll_every,
            open: Mutex::default(),
        };
        for partition in 0..partitions.owners.topics.partitions {
            let file = store::file(&partitions.folder, partition);
            if file.exists() && store::age(&file) >= partitions.owners.topics.tombstones / 2 {
                std::fs::remove_file(file)?;
            }
        }
        Ok(partitions)
    }

    /// This instance owns a partition from now on.
    pub(crate) fn open(&self, partition: i32) -> Result<()> {
        let (requests, inbox) = channel();
        let progress = Arc::new(Progress::default());
        let mut owned = Owned {
            owners: Arc::clone(&self.owners),
            partition,
            file: store::file(&self.folder, partition),
            progress: Arc::clone(&progress),
            roll_every: self.roll_every,
            durable_at: Instant::now(),
            is_unsettled: false,
        };
        let thread = std::thread::Builder::new()
            .name(format!("partition {partition}"))
            .spawn(move || owned.run(&inbox))?;
        let handle = Handle {
            requests,
            progress,
            thread,
        };
        self.handles().insert(partition, handle);
        Ok(())
    }

    /// This instance owns it no more. Its store is of use to nobody, unless this instance starts again soon.
    pub(crate) fn close(&self, partition: i32, keep_store: bool) {
        let Some(handle) = self.handles().remove(&partition) else {
            return;
        };
        handle.progress.closing.store(true, Ordering::Relaxed);
        drop(handle.requests);
        if handle.thread.join().is_err() {
            eprintln!("partition {partition}: its thread has failed");
        }
        let file = store::file(&self.folder, partition);
        if !keep_store && let Err(error) = std::fs::remove_file(&file) {
            eprintln!("{}: {error}", file.display());
        }
    }

    /// Closes all, and keeps their stores.
    pub(crate) fn close_all(&self) {
        let all: Vec<i32> = self.handles().keys().copied().collect();
        for partition in all {
            self.close(partition, true);
        }
    }

    /// Changes something in a partition.
    pub(crate) async fn change(&self, partition: i32, command: Command) -> Answer<Done> {
        self.ask(partition, |answer| Request::Change(command, answer))
            .await?
    }

    /// What a partition has: all that was answered before now is in it, whoever answered.
    pub(crate) async fn look(&self, partition: i32) -> Answer<View> {
        self.ask(partition, Request::Look).await
    }

    async fn ask<T>(
        &self,
        partition: i32,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Answer<T> {
        let (answer, answered) = oneshot::channel();
        {
            let handles = self.handles();
            let handle = handles.get(&partition).ok_or_else(not_here)?;
            let is_ready = handle.progress.serves.load(Ordering::Relaxed);
            let sent = is_ready && handle.requests.send(request(answer)).is_ok();
            sent.then_some(()).ok_or_else(not_here)?;
        }
        // What is dropped unanswered was not done.
        answered.await.map_err(|_| not_here())
    }

    /// Shows how far each is.
    pub(crate) fn each(&self, mut see: impl FnMut(i32, &Progress)) {
        for (partition, handle) in &*self.handles() {
            see(*partition, &handle.progress);
        }
    }

    fn handles(&self) -> MutexGuard<'_, BTreeMap<i32, Handle>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 421: this instance does not own it, or not yet. Nothing was done; whoever asks looks for the owner again.
pub(crate) fn not_here() -> Problem {
    Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        "this instance does not serve the account now",
    )
}

/// What the thread of a partition has.
struct Owned {
    owners: Arc<Owners>,
    partition: i32,
    file: PathBuf,
    progress: Arc<Progress>,
    roll_every: Duration,
    durable_at: Instant,
    /// Something of the store is not on the disk yet.
    is_unsettled: bool,
}

impl Owned {
    fn run(&mut self, inbox: &Receiver<Request>) {
        while !self.progress.closing.load(Ordering::Relaxed) {
            match self.serve(inbox) {
                Ok(()) => return,
                Err(error) => eprintln!("partition {}: {error}; tried again", self.partition),
            }
            self.progress.serves.store(false, Ordering::Relaxed);
            // They are told to ask again.
            inbox.try_iter().for_each(drop);
            std::thread::sleep(PAUSE);
        }
    }

    /// Until it is closed, or something is wrong: then everything is opened again, for Kafka knows what is right.
    fn serve(&mut self, inbox: &Receiver<Request>) -> Result<()> {
        // One that was frozen for a while, and still believes to be the owner, must not fence the one that is.
        let owners = Arc::clone(&self.owners);
        while !owners.ask()?.is_mine(self.partition) {
            if self.progress.closing.load(Ordering::Relaxed) {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        let mut log = Log::open(&owners.topics, &owners.group, self.partition)?;
        let store = self.open_store(&log)?;
        self.restore(&log, &store)?;
        self.progress.serves.store(true, Ordering::Relaxed);
        loop {
            let first = match inbox.recv_timeout(TICK) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(store.begin()?.commit(true)?),
            };
            let batch = first.into_iter().chain(inbox.try_iter()).take(BATCH);
            self.answer(&mut log, &store, batch.collect())?;
        }
    }

    /// The store, empty when it is not one of this log.
    fn open_store(&self, log: &Log<'_>) -> Result<Store> {
        let store = Store::open(&self.file)?;
        let step = store.begin()?;
        for topic in Topic::ALL {
            if step.next(topic)?.unwrap_or(0) > log.next(topic) {
                eprintln!(
                    "partition {}: the store is of another topic",
                    self.partition
                );
                drop((step, store));
                std::fs::remove_file(&self.file)?;
                return Ok(Store::open(&self.file)?);
            }
        }
        drop(step);
        Ok(store)
    }

    fn restore(&self, log: &Log<'_>, store: &Store) -> Result<()> {
        let start = Instant::now();
        let said = Cell::new(start);
        let say = |read: u64, total: u64| {
            self.progress.read.store(read, Ordering::Relaxed);
            self.progress.to_read.store(total, Ordering::Relaxed);
            if read == total || said.get().elapsed() > TICK {
                said.set(Instant::now());
                let percent = (read * 100).checked_div(total).unwrap_or(100);
                println!(
                    "partition {}: {read} of {total} offsets read ({percent} %), {:.1} s",
                    self.partition,
                    start.elapsed().as_secs_f64()
                );
            }
        };
        log.read_into(store, say)
    }

    /// Answers requests. What they change is one transaction of Kafka, then one of the store.
    fn answer(&mut self, log: &mut Log<'_>, store: &Store, batch: Vec<Request>) -> Result<()> {
        let first_event = log.check_newest()?;
        let step = store.begin()?;
        let mut is_changed = step.forget_events_before(first_event)?;
        is_changed |= self.roll(log, &step)?;
        let mut changes = Vec::new();
        let mut looks = Vec::new();
        for request in batch {
            match request {
                Request::Look(answer) => looks.push(answer),
                Request::Change(command, answer) => {
                    let decided = command.decide(&step)?;
                    let (done, records) = match decided {
                        Ok((done, records)) => (Ok(done), records),
                        Err(problem) => (Err(problem), Vec::new()),
                    };
                    is_changed |= !records.is_empty();
                    for record in records {
                        log.add(record, &step)?;
                    }
                    changes.push((answer, done));
                }
            }
        }
        let written = log.write();
        let kept = match written {
            Ok(()) => self.commit(log, step, is_changed),
            // Nobody is answered: they ask again.
            Err(Failed::NotWritten(error)) => return Err(error.into()),
            Err(Failed::NotKnown(error)) => Err(error.into()),
        };
        for (answer, done) in changes {
            let done = if kept.is_ok() { done } else { Err(not_known()) };
            // Who does not wait any more needs no answer.
            let _ = answer.send(done);
        }
        kept?;
        for look in looks {
            let _ = look.send(store.view()?);
        }
        Ok(())
    }

    /// Kafka compacts what is behind the newest segment of a partition, and begins another one only when something is written: so that
    /// is done once in a while, in a partition where nobody writes, too. Whether it was.
    fn roll(&self, log: &mut Log<'_>, step: &Step) -> Result<bool> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let is_due = now.saturating_sub(step.rolled_at()?) >= self.roll_every.as_secs();
        if is_due {
            for topic in Topic::ALL {
                // No account and no event has that key.
                let key = String::new();
                let record = Record {
                    topic,
                    key,
                    value: None,
                };
                log.add(record, step)?;
            }
            step.set_rolled_at(now)?;
        }
        Ok(is_due)
    }

    /// Waits for the disk once in a while only: Kafka has everything.
    fn commit(&mut self, log: &Log<'_>, step: Step, is_changed: bool) -> Result<()> {
        let age = self.durable_at.elapsed();
        let is_due = age > TOUCH || self.is_unsettled && age > TICK;
        if is_changed || is_due {
            for topic in Topic::ALL {
                step.set_next(topic, log.next(topic))?;
            }
            step.commit(is_due)?;
            self.is_unsettled = !is_due;
        }
        if is_due {
            self.durable_at = Instant::now();
        }
        Ok(())
    }
}

/// 503, where a change may or may not have been made.
pub(crate) fn not_known() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "it is not known whether this was done: read, and decide by the version",
    )
}
