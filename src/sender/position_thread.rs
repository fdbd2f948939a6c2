//! The position thread of deliveries at least once: it takes the position over, and writes it when events are
//! acknowledged, through a producer of its own, so that no event waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use change::chunk::MacKey;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::board::Board;
use super::client::KafkaSettings;
use super::position::{Context, Owner, TRANSACTION_CALL_TIMEOUT, Unwritten, Writer};
use super::progress::{Progress, Progresses};

/// Positions are not written more often than this while transactions follow each other.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// A transaction here has one record.
const TRANSACTION_TIMEOUT_MS: &str = "10000";
/// Where there are tokens an idle producer is polled so often: that is how librdkafka asks for new ones.
const POLL: Duration = Duration::from_secs(1);

/// Runs until the board says stop or the session fails.
pub fn run(
    settings: &KafkaSettings,
    owner: &Owner,
    key: &MacKey,
    board: &Arc<Board>,
    progresses: &Progresses,
) {
    let mut thread = PositionThread {
        settings,
        board,
        writer: Writer::new(settings, owner, key, board),
        producer: None,
    };
    while let Err(unwritten) = thread.take_over() {
        if !thread.writer.wait_out(unwritten) {
            return;
        }
    }
    thread.serve(progresses);
}

struct PositionThread<'a> {
    settings: &'a KafkaSettings,
    board: &'a Arc<Board>,
    writer: Writer<'a>,
    producer: Option<BaseProducer<Context>>,
}

impl PositionThread<'_> {
    fn is_over(&self) -> bool {
        self.board.stopping() || self.board.has_failed()
    }

    fn connect(&self) -> Result<BaseProducer<Context>, Unwritten> {
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
        Ok(producer)
    }

    fn take_over(&mut self) -> Result<(), Unwritten> {
        self.producer = None;
        let producer = self.connect()?;
        self.writer.take_over(&producer)?;
        self.producer = Some(producer);
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
        while !self.is_over() {
            let due = last_write.is_some_and(|at| at.elapsed() >= heartbeat);
            if progresses.is_empty() && !due {
                let left =
                    last_write.map_or(heartbeat, |at| heartbeat.saturating_sub(at.elapsed()));
                let left = left.min(longest);
                self.board.sleep_while(left, || progresses.is_empty());
                if let Some(producer) = &self.producer {
                    producer.poll(Duration::ZERO);
                }
                last_write.get_or_insert_with(Instant::now);
                continue;
            }
            if let Some(wait) = last_write.and_then(|at| MIN_INTERVAL.checked_sub(at.elapsed())) {
                std::thread::sleep(wait);
            }
            let (number, progress) = progresses.take();
            last_write = Some(Instant::now());
            let Some(progress) = progress.or_else(|| self.writer.last_progress()) else {
                continue;
            };
            while let Err(unwritten) = self.write(&progress, number) {
                // Whatever the broker has seen of it: a new producer ends the old one's transaction first.
                self.producer = None;
                if !self.writer.wait_out(unwritten) {
                    return;
                }
            }
        }
    }

    fn write(&mut self, progress: &Progress, number: u64) -> Result<(), Unwritten> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => {
                let producer = self.connect()?;
                self.writer.prepare(&producer)?;
                self.writer.fence(&producer)?;
                producer
            }
        };
        let prepared = self.writer.prepared(progress)?;
        let wrap = |error: KafkaError, what: &str| self.writer.trouble(&error, what);
        producer
            .begin_transaction()
            .map_err(|error| wrap(error, "begin_transaction"))?;
        producer
            .send(
                BaseRecord::to(self.writer.topic())
                    .partition(0)
                    .key(&prepared.key)
                    .payload(&prepared.value),
            )
            .map_err(|(error, _)| wrap(error, "position record"))?;
        // Commits only after the record is acknowledged; -1 would wait as long as the broker's own limit does.
        producer
            .commit_transaction(TRANSACTION_CALL_TIMEOUT)
            .map_err(|error| wrap(error, "commit_transaction"))?;
        self.producer = Some(producer);
        self.writer.written(prepared, number);
        Ok(())
    }
}
