//! The position thread of deliveries at least once: it takes the position over, and writes it when events are
//! acknowledged, through a producer of its own, so that no event waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, Producer};

use super::board::{Board, EventFd, Failure, no_eventfd};
use super::client::KafkaSettings;
use super::position::{Context, Unwritten, Writer};
use super::progress::{Progress, Progresses};
use super::queue_wake::QueueWake;
use super::session::Session;

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
    let Session {
        settings, board, ..
    } = session;
    let wake = match EventFd::new() {
        Ok(wake) => wake,
        Err(error) => return board.fail(Failure::Halt(no_eventfd(&error))),
    };
    let mut thread = PositionThread {
        settings,
        board,
        writer: Writer::new(session),
        connection: None,
        wake,
    };
    while let Err(unwritten) = thread.take_over() {
        if !thread.writer.wait_out(unwritten) {
            return;
        }
    }
    thread.serve(&session.progresses);
}

struct PositionThread<'a> {
    settings: &'a KafkaSettings,
    board: &'a Arc<Board>,
    writer: Writer<'a>,
    connection: Option<Connection>,
    /// Wakes for the producer's events.
    wake: EventFd,
}

/// The producer, and what tells of its events: dropped in this order.
struct Connection {
    queue: QueueWake,
    producer: BaseProducer<Context>,
}

impl PositionThread<'_> {
    fn is_over(&self) -> bool {
        self.board.stopping() || self.board.has_failed()
    }

    fn connect(&self) -> Result<Connection, Unwritten> {
        let mut config = self.settings.base("position");
        config
            .set("transactional.id", self.writer.transactional_id())
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
            .set("linger.ms", "0");
        let producer: BaseProducer<Context> = config
            .create_with_context(self.writer.context())
            .map_err(|error| self.writer.trouble(&error, "position producer"))?;
        // librdkafka asks for the first token.
        producer.poll(Duration::ZERO);
        Ok(Connection {
            queue: QueueWake::enable(&producer, &self.wake),
            producer,
        })
    }

    fn take_over(&mut self) -> Result<(), Unwritten> {
        self.connection = None;
        let connection = self.connect()?;
        self.writer.take_over(&connection.producer)?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Writes what the mailbox holds, as often as sensible, and a heartbeat where nothing happens.
    fn serve(&mut self, progresses: &Progresses) {
        let heartbeat = Duration::from_millis(self.settings.heartbeat_ms);
        let longest = match self.settings.uses_tokens() {
            true => POLL,
            false => heartbeat,
        };
        let mut last_write: Option<Instant> = None;
        let mut transactions = 0;
        while !self.is_over() {
            let due = last_write.is_some_and(|at| at.elapsed() >= heartbeat);
            if progresses.is_empty() && !due {
                let left =
                    last_write.map_or(heartbeat, |at| heartbeat.saturating_sub(at.elapsed()));
                let left = left.min(longest);
                self.board.sleep_while(left, || progresses.is_empty());
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
            transactions = self.board.read(|facts| facts.acknowledged);
            let Some(progress) = progress.or_else(|| self.writer.last_progress()) else {
                continue;
            };
            while let Err(unwritten) = self.write(&progress, number) {
                // Whatever the broker has seen of it: a new producer ends the old one's transaction first.
                self.connection = None;
                if !self.writer.wait_out(unwritten) {
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
        let acknowledged = self.board.read(|facts| facts.acknowledged);
        let few = last_write.elapsed().as_millis() * FEW_PER_MS;
        if u128::from(acknowledged.saturating_sub(before)) > few {
            wait(SHARED_INTERVAL);
        }
    }

    fn write(&mut self, progress: &Progress, number: u64) -> Result<(), Unwritten> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = self.connect()?;
                self.writer.prepare(&connection.producer)?;
                self.writer.fence(&connection.producer)?;
                connection
            }
        };
        let Connection { queue, producer } = &connection;
        let prepared = self.writer.prepared(progress)?;
        producer
            .begin_transaction()
            .map_err(|error| self.writer.trouble(&error, "begin_transaction"))?;
        self.writer
            .commit(producer, queue, &self.wake, &prepared, ())?;
        self.connection = Some(connection);
        self.writer.written(prepared, number);
        Ok(())
    }
}
