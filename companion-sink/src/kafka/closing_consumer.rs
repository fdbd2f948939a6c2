//! A consumer that does not hold up whoever drops it.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};

use crate::error::Result;
use crate::kafka::client::configuration_error;

/// What was asked of Kafka last goes through within this, if Kafka is there.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// A consumer with a group. librdkafka closes it only when offsets that were committed are told to Kafka, or half a minute
/// later: where Kafka is out of reach a thread of its own waits for that.
pub(crate) struct ClosingConsumer<C: ConsumerContext + 'static>(ManuallyDrop<Arc<BaseConsumer<C>>>);

impl<C: ConsumerContext + 'static> ClosingConsumer<C> {
    /// A consumer with these properties; nothing is assigned yet.
    pub(crate) fn start(client: &ClientConfig, context: C) -> Result<Self> {
        let consumer: BaseConsumer<C> = client
            .create_with_context(context)
            .map_err(|error| configuration_error(&error))?;
        Ok(ClosingConsumer(ManuallyDrop::new(Arc::new(consumer))))
    }
}

impl<C: ConsumerContext + 'static> Deref for ClosingConsumer<C> {
    type Target = Arc<BaseConsumer<C>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<C: ConsumerContext + 'static> Drop for ClosingConsumer<C> {
    fn drop(&mut self) {
        // SAFETY: nothing uses the field after this, for `self` is gone then.
        let consumer = unsafe { ManuallyDrop::take(&mut self.0) };
        let (done, closed) = mpsc::channel::<()>();
        let closing = thread::Builder::new().name("close".into()).spawn(move || {
            drop(consumer);
            drop(done);
        });
        match closing {
            // Either way there is nothing more to do here.
            Ok(_) => drop(closed.recv_timeout(CLOSE_MAX)),
            Err(error) => tracing::debug!(%error, "a consumer was closed without a thread"),
        }
    }
}
