//! The way from Kafka to receivers: webhooks and mails per second of companion-sink, beside loops that send the same to the same
//! receivers as fast as they are answered. A receiver is slow in itself (aiosmtpd above all), so that the ratio says more than
//! the figures.

mod bare;

use pg_cdc_tests::companion_sink::Plan;
use pg_cdc_tests::mail_server::MailServer;
use pg_cdc_tests::webhook_receiver::WebhookReceiver;
use pg_cdc_tests::{Database, topic};
use serde_json::{Value, json};

use crate::account::{self, FULL_ROWS, rows};
use crate::bed::{start_bed, step};
use crate::measures::median::{all_rounded, median, rounded, whole};
use crate::measures::memory::{Memory, megabytes, with_peak};
use crate::measures::threads;
use crate::outcome::Outcome;
use crate::sink::{plan, wait_for_figure};
use crate::table::Table;

const ROUNDS: usize = 3;
const SINK: &str = "effect";
/// Requests, for a run of full size: an event each.
const FULL_WEBHOOKS: i64 = 20_000;
/// Mails: of the first of these events.
const FULL_MAILS: i64 = 2_000;

/// What is measured: effects of a kind, so many at once.
#[derive(Clone, Copy)]
struct Case {
    kind: Kind,
    concurrency: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Webhook,
    Mail,
}

const CASES: [Case; 5] = [
    Case::of(Kind::Webhook, 1),
    Case::of(Kind::Webhook, 8),
    Case::of(Kind::Webhook, 64),
    Case::of(Kind::Mail, 8),
    Case::of(Kind::Mail, 64),
];

impl Case {
    const fn of(kind: Kind, concurrency: usize) -> Case {
        Case { kind, concurrency }
    }

    fn name(self) -> String {
        match self.kind {
            Kind::Webhook => format!("webhooks_at_{}", self.concurrency),
            Kind::Mail => format!("mails_at_{}", self.concurrency),
        }
    }

    fn effects(self) -> i64 {
        let full = match self.kind {
            Kind::Webhook => FULL_WEBHOOKS,
            Kind::Mail => FULL_MAILS,
        };
        full * rows() / FULL_ROWS
    }
}

/// What was measured of a case, an entry per round.
#[derive(Default)]
struct Figures {
    per_s: Vec<f64>,
    bare_per_s: Vec<f64>,
    cpu_s: Vec<f64>,
    peak: Memory,
}

impl Figures {
    fn json(&self) -> Value {
        let whole = |figures: &[f64]| figures.iter().copied().map(whole).collect::<Vec<_>>();
        json!({
            "per_s": whole(&self.per_s),
            "bare_per_s": whole(&self.bare_per_s),
            "cpu_s": all_rounded(&self.cpu_s),
            "peak_memory": self.peak.json(),
        })
    }
}

/// Measures.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let database = bed.database("bench");
    let events = CASES[0].effects();
    let mut source = database.source();
    step(&format!("{events} events into Kafka"), || {
        account::create(&mut source);
        account::run(&mut source, "SELECT cdc_track('account')");
        account::run(&mut source, &account::insert(events));
        account::run(&mut source, "SELECT cdc_wait('30 min')");
    });
    let bodies: Vec<Vec<u8>> = topic::read(bed.kafka(), &database.topic("account"))
        .into_iter()
        .filter_map(|record| record.value)
        .collect();
    let mut figures = CASES.map(|_| Figures::default());
    for round in 0..ROUNDS {
        for place in 0..CASES.len() {
            // Which goes first changes from round to round.
            let place = (round + place) % CASES.len();
            let case = CASES[place];
            let name = format!("{}_{round}", case.name());
            step(&format!("round {}, {}", round + 1, case.name()), || {
                measure(&database, &name, case, &bodies, &mut figures[place]);
            });
        }
    }
    outcome(&figures)
}

fn outcome(figures: &[Figures; CASES.len()]) -> Outcome {
    let mut table = Table::new(&[
        "",
        "effects/s",
        "bare loop/s",
        "ratio",
        "CPU µs/effect",
        "memory MB",
    ]);
    let (mut found, mut raw) = (serde_json::Map::new(), serde_json::Map::new());
    for (case, figures) in CASES.iter().zip(figures) {
        let (ours, bare) = (median(&figures.per_s), median(&figures.bare_per_s));
        let name = case.name();
        table.row(
            &name.replace('_', " "),
            &[
                whole(ours).to_string(),
                whole(bare).to_string(),
                format!("{:.2}", ours / bare),
                format!(
                    "{:.0}",
                    median(&figures.cpu_s) * 1e6 / case.effects() as f64
                ),
                megabytes(figures.peak.highest_resident).to_string(),
            ],
        );
        found.insert(format!("{name}_per_s"), whole(ours).into());
        found.insert(format!("{name}_bare_per_s"), whole(bare).into());
        found.insert(format!("{name}_ratio"), rounded(ours / bare).into());
        raw.insert(name, figures.json());
    }
    let peak = figures
        .iter()
        .map(|figures| figures.peak.highest_resident)
        .max();
    found.insert("rss_mb".to_owned(), megabytes(peak.unwrap_or(0)).into());
    Outcome {
        figures: Value::Object(found),
        raw: Value::Object(raw),
        settings: json!({
            "rounds": ROUNDS,
            "webhooks": CASES[0].effects(),
            "mails": CASES[3].effects(),
            "webhook_receiver": "one of the test bed, a thread for each connection",
            "mail_server": "aiosmtpd, a file for each mail",
            "companion_sink": "defaults but for concurrency, begin = beginning",
        }),
        table,
    }
}

/// One case, companion-sink's and the bare loop's, against a new receiver.
fn measure(
    database: &Database<'_>,
    name: &str,
    case: Case,
    bodies: &[Vec<u8>],
    figures: &mut Figures,
) {
    let effects = case.effects() as usize;
    match case.kind {
        Kind::Webhook => {
            let receiver = WebhookReceiver::start();
            let url = receiver.url();
            run_companion_sink(
                database,
                name,
                case,
                &format!("kind = \"webhook\"\nurl = \"{url}\"\n"),
                figures,
            );
            let mut ids = receiver.done_ids();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), effects, "requests with ids of their own");
            let address = url.trim_start_matches("http://").trim_end_matches("/hook");
            let seconds = bare::requests(address, bodies, case.concurrency);
            figures.bare_per_s.push(effects as f64 / seconds);
        }
        Kind::Mail => {
            let server = MailServer::start(&database.bed().path(name));
            run_companion_sink(
                database,
                name,
                case,
                &format!(
                    "kind = \"mail\"\nsmtp = \"smtp://{}\"\nfrom = \"Shop <shop@example.org>\"\nwhen = \"after.id <= {effects}\"\n\
                     to = [\"ann@example.org\"]\nsubject = \"Welcome, {{{{ after.name }}}}\"\nbody = \"Hello {{{{ after.name }}}}\"\n",
                    server.address()
                ),
                figures,
            );
            let mails = server.mails();
            assert_eq!(mails.len(), effects, "mails");
            let mails: Vec<Vec<u8>> = mails
                .into_iter()
                .map(|mail| format!("{}\r\n.\r\n", mail.trim_end()).into_bytes())
                .collect();
            let seconds = bare::mails(&server.address(), &mails, case.concurrency);
            figures.bare_per_s.push(effects as f64 / seconds);
        }
    }
}

/// From the first effects that companion-sink has had until the last one.
fn run_companion_sink(
    database: &Database<'_>,
    name: &str,
    case: Case,
    toml: &str,
    figures: &mut Figures,
) {
    let topic = database.topic("account");
    let more_toml = format!(
        "[sink.{SINK}]\ntopics = [\"{topic}\"]\nbegin = \"beginning\"\nconcurrency = {}\n{toml}",
        case.concurrency
    );
    let sink = database.bed().companion_sink(Plan {
        more_toml,
        ..plan(database, name, std::slice::from_ref(&topic))
    });
    sink.start_only(&[SINK]);
    let sent = "/effects/sent";
    let (per_s, peak) = with_peak(sink.pid(), || {
        // Who has the effects is found out first: that takes seconds, and has nothing to do with the rate.
        let start = wait_for_figure(&sink, SINK, sent, 1);
        wait_for_figure(&sink, SINK, sent, case.effects());
        case.effects() as f64 / start.elapsed().as_secs_f64()
    });
    figures.per_s.push(per_s);
    figures.cpu_s.push(threads::process_cpu_s(sink.pid()));
    figures.peak = figures.peak.max(peak);
    sink.stop();
}
