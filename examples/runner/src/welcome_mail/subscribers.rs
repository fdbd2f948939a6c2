//! Those who subscribe beside the mails: billing and analytics.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::wait_until;
use pg_cdc_tests::webhook_receiver::{Reply, WebhookReceiver};

use crate::bed;
use crate::place::Place;

const TIMEOUT: Duration = Duration::from_secs(60);
/// What billing and its sender know.
pub(super) const SECRET: &str = "C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Billing and analytics, each with a companion-sink of its own.
pub(super) struct Subscribers {
    pub(super) billing: WebhookReceiver,
    log: PathBuf,
    pub(super) analytics: CompanionSink,
    billing_sink: CompanionSink,
}

impl Subscribers {
    /// Starts both; who signs up from now on has a request.
    pub(super) fn start(place: Place) -> Subscribers {
        let billing = WebhookReceiver::start();
        let log = place.own("billing-requests.log");
        note_requests(&billing, &log);
        let billing_sink = place.companion_sink(
            "billing",
            &[("COMPANION_SINK__SINK__BILLING__URL", &billing.url())],
            bed::port("PG_CDC_BILLING_PORT", 18481),
        );
        write_secret(&place.own("billing/secret"));
        billing_sink.start();
        let port = bed::port("PG_CDC_ANALYTICS_PORT", 18482);
        let analytics = place.companion_sink("analytics", &[], port);
        analytics.start();
        let subscribers = Subscribers {
            billing,
            log,
            analytics,
            billing_sink,
        };
        subscribers.wait_until_billing_has_begun();
        subscribers
    }

    /// Who signs up before has no request.
    fn wait_until_billing_has_begun(&self) {
        wait_until("billing to begin", TIMEOUT, || {
            let state = self.billing_sink.state_of("billing");
            let has_begun = state["state"] == "running" && state["apply_lag_events"] == 0;
            has_begun.then_some(()).ok_or(state.to_string())
        });
    }

    /// The requests that billing got, a line each.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }
}

/// Billing answers 200, and writes each request down.
fn note_requests(billing: &WebhookReceiver, log: &Path) {
    let log = Mutex::new(File::create(log).expect("billing's log"));
    billing.answer(move |request| {
        let line = format!("{} {}", request.id(), request.json()["after"]);
        writeln!(log.lock().expect("billing's log"), "{line}").expect("write billing's log");
        Reply::Status(200)
    });
}

fn write_secret(file: &Path) {
    let secret = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file);
    writeln!(secret.expect("the secret's file"), "whsec_{SECRET}").expect("write the secret");
}
