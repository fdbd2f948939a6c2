//! The surroundings of every client: one reporter, and what becomes of delivery reports.

use std::sync::Arc;

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::statistics::Statistics;
use rdkafka::util::IntoOpaque;

use super::reporter::Reporter;
use super::settings::KafkaSettings;
use crate::board::Board;

/// What a client does with delivery reports.
pub(crate) trait DeliveryReports: Send + Sync {
    /// What goes with a record and comes back with its report.
    type Opaque: IntoOpaque + Copy;
    /// Whether this client's brokers are those that the state shows.
    const SHOWS_BROKERS: bool;

    /// Called while the client is polled.
    fn delivered(&self, result: &DeliveryResult<'_>, opaque: Self::Opaque);
}

/// For clients of whose records somebody else tells what became of them: a transaction, or there are none.
impl DeliveryReports for () {
    type Opaque = ();
    const SHOWS_BROKERS: bool = false;

    fn delivered(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

/// Reports what the client says, and passes on delivery reports.
pub(crate) struct ReportingContext<D> {
    reporter: Reporter,
    deliveries: D,
}

impl<D> ReportingContext<D> {
    pub(crate) fn new(
        settings: &KafkaSettings,
        board: &Arc<Board>,
        deliveries: D,
    ) -> ReportingContext<D> {
        ReportingContext {
            reporter: Reporter::new(settings, board),
            deliveries,
        }
    }
}

impl<D: DeliveryReports> ClientContext for ReportingContext<D> {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reporter.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        if D::SHOWS_BROKERS {
            self.reporter.stats(&statistics);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reporter.error(&error, reason);
    }

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.reporter.generate_oauth_token(config)
    }
}

impl<D: DeliveryReports> ConsumerContext for ReportingContext<D> {}

impl<D: DeliveryReports> ProducerContext for ReportingContext<D> {
    type DeliveryOpaque = D::Opaque;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: D::Opaque) {
        self.deliveries.delivered(result, opaque);
    }
}
