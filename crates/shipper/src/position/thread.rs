//! The position thread of deliveries at least once: it takes the position over, and writes it when events are
//! acknowledged, through a producer of its own, so that no event waits for it.

use std::time::{Duration, Instant};

use rdkafka::producer::BaseProducer;

use super::cause::{NO_EPOCH, backoff, wait_out};
use super::record::RecordMaker;
use super::write_error::WriteError;
use super::{transaction, writer};
use crate::kafka::context::ReportingContext;
use crate::kafka::queue_wake::QueueWake;
use crate::progress::Progress;
use crate::session::Session;
use crate::trouble::{Failure, no_eventfd};
use crate::wake::EventFd;

/// Consistent readers wait for positions, but brokers write four records for each: few transactions have one soon, many share one.
const MIN_INTERVAL: Duration = Duration::from_millis(5);
/// Few are so many in each millisecond, over all the time since the last position: those that a pause of a disk or of a broker
/// has gathered are no more than those that come one by one.
const FEW_PER_MS: u128 = 1;
const SHARED_INTERVAL: Duration = Duration::from_millis(50);
/// A transaction here has one record.
const TRANSACTION_TIMEOUT_MS: &str = "10000";
/// Where there are tokens an idle producer is polled so often: that is how librdkafka asks for new ones.
const POLL: Duration = Duration::from_secs(1);

/// Runs until the board says stop or the session fails.
pub fn run(session: &Session) {
    let board = &session.board;
    let wake = match EventFd::new() {
        Ok(wake) => wake,
        Err(error) => return board.fail(Failure::Halt(no_eventfd(&error))),
    };
    let mut attempts = backoff();
    let (records, connection) = loop {
        let taken = connect(session, &wake).and_then(|connection| {
            let records = writer::take_over(session, &connection.producer)?;
            Ok((records, connection))
        });
        match taken {
            Ok(taken) => break taken,
            Err(error) => {
                if !wait_out(session, NO_EPOCH, error, &mut attempts) {
                    return;
                }
            }
        }
    };
    let mut thread = PositionThread {
        session,
        records,
        connection: Some(connection),
        wake: &wake,
    };
    thread.serve();
}

struct PositionThread<'a> {
    session: &'a Session,
    records: RecordMaker<'a>,
    connection: Option<Connection>,
    /// Wakes for the producer's events.
    wake: &'a EventFd,
}

/// The producer, and what tells of its events: dropped in this order.
struct Connection {
    queue: QueueWake,
    producer: BaseProducer<ReportingContext<()>>,
}

fn connect(session: &Session, wake: &EventFd) -> Result<Connection, WriteError> {
    let mut config = session.settings.base("position");
    config
        .set("transactional.id", session.transactional_id())
        .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
        .set("linger.ms", "0");
    let context = ReportingContext::new(&session.settings, &session.board, ());
    let producer: BaseProducer<ReportingContext<()>> = config
        .create_with_context(context)
        .map_err(|error| WriteError::of(session, &error, "position producer"))?;
    // librdkafka asks for the first token.
    producer.poll(Duration::ZERO);
    Ok(Connection {
        queue: QueueWake::enable(&producer, wake),
        producer,
    })
}

impl PositionThread<'_> {
    /// Writes what the mailbox holds, as often as sensible, and a heartbeat where nothing happens.
    fn serve(&mut self) {
        let (session, progresses) = (self.session, &self.session.progresses);
        let heartbeat = Duration::from_millis(session.settings.heartbeat_ms);
        let longest = match session.settings.uses_tokens() {
            true => POLL,
            false => heartbeat,
        };
        let mut last_write: Option<Instant> = None;
        let mut transactions = 0;
        while !session.is_over() {
            let due = last_write.is_some_and(|at| at.elapsed() >= heartbeat);
            if progresses.is_empty() && !due {
                let left =
                    last_write.map_or(heartbeat, |at| heartbeat.saturating_sub(at.elapsed()));
                let left = left.min(longest);
                session.board.sleep_while(left, || progresses.is_empty());
                if let Some(Connection { queue, producer }) = &self.connection {
                    queue.serve(producer);
                }
                last_write.get_or_insert_with(Instant::now);
                continue;
            }
            if let Some(at) = last_write {
                self.gather(at, transactions);
            }
            let (number, progress) = progresses.take();
            last_write = Some(Instant::now());
            transactions = self.session.board.with_facts(|facts| facts.acknowledged);
            let Some(progress) = progress.or_else(|| self.records.last_progress()) else {
                continue;
            };
            let mut attempts = backoff();
            while let Err(error) = self.write(&progress, number) {
                // Whatever the broker has seen of it: a new producer ends the old one's transaction first.
                self.connection = None;
                if !wait_out(session, self.records.epoch(), error, &mut attempts) {
                    return;
                }
            }
        }
    }

    /// Waits for what shares the next position, after one that was written at `last_write` for `before` transactions.
    fn gather(&self, last_write: Instant, before: u64) {
        let wait = |interval: Duration| {
            std::thread::sleep(interval.saturating_sub(last_write.elapsed()));
        };
        wait(MIN_INTERVAL);
        let acknowledged = self.session.board.with_facts(|facts| facts.acknowledged);
        let few = last_write.elapsed().as_millis() * FEW_PER_MS;
        if u128::from(acknowledged.saturating_sub(before)) > few {
            wait(SHARED_INTERVAL);
        }
    }

    fn write(&mut self, progress: &Progress, number: u64) -> Result<(), WriteError> {
        let session = self.session;
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = connect(session, self.wake)?;
                writer::prepare(session, &connection.producer)?;
                writer::fence(session, &connection.producer)?;
                connection
            }
        };
        let Connection { queue, producer } = &connection;
        let prepared = self.records.prepare(progress)?;
        transaction::begin(session, producer)?;
        transaction::commit(session, producer, queue, self.wake, &prepared, ())?;
        self.connection = Some(connection);
        self.records.written(prepared, number);
        Ok(())
    }
}
