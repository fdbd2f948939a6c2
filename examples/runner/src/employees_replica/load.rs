//! Changes that go on until somebody ends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use postgres::{Client, Config, Error, NoTls};

use super::company::{Company, TIMEOUT};

const CHANGES: u32 = 100;

/// The procedure of source.sql, called again and again. Dropping it ends it.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<u32>>,
}

impl Load {
    /// Begins.
    pub(super) fn start(company: &Company<'_>) -> Load {
        let mut client = company.source();
        Load::begin(move || change(&mut client).expect("changes"))
    }

    /// As [`Load::start`], of a server that will be away for a while.
    pub(super) fn start_anew_after_errors(company: &Company<'_>) -> Load {
        let config = company.source_config();
        let mut client = None;
        let mut went_well = Instant::now();
        Load::begin(move || match change_at(&config, &mut client) {
            Ok(changes) => {
                went_well = Instant::now();
                changes
            }
            Err(error) => {
                assert!(went_well.elapsed() < TIMEOUT, "the source: {error:?}");
                client = None;
                0
            }
        })
    }

    /// `change` makes some, and says how many.
    fn begin(mut change: impl FnMut() -> u32 + Send + 'static) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = thread::spawn(move || {
            let mut changes = 0;
            while !stopped.load(Ordering::Relaxed) {
                changes += change();
            }
            changes
        });
        Load {
            stop,
            writer: Some(writer),
        }
    }

    /// Ends it; how many changes were tried.
    pub(super) fn end(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let writer = self.writer.take().expect("a writer");
        writer.join().expect("changes without an error")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(writer) = self.writer.take() {
            // A panic in it was printed already.
            let _ = writer.join();
        }
    }
}

fn change(client: &mut Client) -> Result<u32, Error> {
    client.batch_execute(&format!("CALL change_employees({CHANGES})"))?;
    Ok(CHANGES)
}

/// Makes changes in the session of before, or in a new one.
fn change_at(config: &Config, session: &mut Option<Client>) -> Result<u32, Error> {
    let client = match session {
        Some(client) => client,
        None => session.insert(config.connect(NoTls)?),
    };
    change(client)
}
