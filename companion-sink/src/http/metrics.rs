//! What each sink is doing, for Prometheus.

use crate::status::histogram::Histogram;
use crate::status::prometheus::{Metrics, Sample};
use crate::status::{EffectFigures, Figures, SinkStatus, State};

/// A figure of a sink: its name, kind and description, and its value; no sample where that is not known.
type Figure = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Figures) -> Option<f64>,
);

const FIGURES: [Figure; 12] = [
    ("batches_total", "counter", "Applied batches.", |f| {
        Some(f.batches as f64)
    }),
    (
        "duplicates_total",
        "counter",
        "Later copies that were dropped.",
        |f| Some(f.duplicates as f64),
    ),
    (
        "apply_lag_events",
        "gauge",
        "Events in Kafka that are not applied, in every state; no sample where that is not known.",
        |f| f.apply_lag_events.map(|events| events as f64),
    ),
    (
        "apply_lag_seconds",
        "gauge",
        "Since the first of these events came to Kafka; 0 where there is none.",
        |f| f.apply_lag_seconds,
    ),
    (
        "unmoved_seconds",
        "gauge",
        "Since something was applied, while something waits.",
        |f| f.unmoved_seconds,
    ),
    (
        "stuck",
        "gauge",
        "1 if the sink has been halted, tried again, or has applied nothing though something waits, or a topic has been stopped, for longer than stuck_after.",
        |f| Some(f64::from(u8::from(f.stuck))),
    ),
    (
        "stopped_topics",
        "gauge",
        "Topics that wait at an event about their table which the target cannot follow.",
        |f| Some(f.stopped_topics.len() as f64),
    ),
    (
        "unknown_rows_total",
        "counter",
        "Changes of rows, of tables without a key, that the target did not have.",
        |f| Some(f.unknown_rows as f64),
    ),
    (
        "parked_keys",
        "gauge",
        "Keys behind a refused event.",
        |f| Some(f.parked_keys as f64),
    ),
    (
        "retries_total",
        "counter",
        "Attempts after a failure.",
        |f| Some(f.retries as f64),
    ),
    (
        "store_keys",
        "gauge",
        "Keys in the store of a sink that has one of its own.",
        |f| f.store_keys.map(|keys| keys as f64),
    ),
    (
        "store_bytes",
        "gauge",
        "What that store takes of the disk.",
        |f| f.store_bytes.map(|bytes| bytes as f64),
    ),
];

/// The figures of one sink as they were at one moment.
type SinkFigures = (String, Figures);

/// Adds what all sinks do.
pub(crate) fn put_metrics(metrics: &mut Metrics, sinks: &[SinkStatus]) {
    let seen: Vec<SinkFigures> = sinks
        .iter()
        .map(|sink| (sink.name.clone(), sink.figures().clone()))
        .collect();
    for (name, kind, help, value) in FIGURES {
        put(metrics, name, kind, help, &seen, |sink, figures| {
            let value = value(figures);
            value
                .map(|value| (labelled("", sink, ""), value))
                .into_iter()
                .collect()
        });
    }
    put_labelled(metrics, &seen);
    let apply: fn(&Figures) -> &Histogram = |figures| &figures.apply_seconds;
    let latency: fn(&Figures) -> &Histogram = |figures| &figures.latency_seconds;
    for (name, help, pick) in [
        ("apply_duration_seconds", "Time to apply a batch.", apply),
        ("event_latency_seconds", "From commit to applied.", latency),
    ] {
        put(metrics, name, "histogram", help, &seen, |sink, figures| {
            samples_of(sink, pick(figures))
        });
    }
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    let name = "companion_sink_build_info";
    metrics.family(name, "gauge", "The version.", vec![(version, 1.0)]);
}

/// Figures that a sink has several of.
fn put_labelled(metrics: &mut Metrics, seen: &[SinkFigures]) {
    let help = "Applied events.";
    put(
        metrics,
        "events_total",
        "counter",
        help,
        seen,
        |sink, figures| {
            let of_op = |(op, count): (&_, &u64)| {
                (labelled("", sink, &format!(",op=\"{op}\"")), *count as f64)
            };
            figures.applied.iter().map(of_op).collect()
        },
    );
    let help = "Refused events.";
    put(
        metrics,
        "dead_letters_total",
        "counter",
        help,
        seen,
        |sink, figures| {
            let letters = figures.dead_letters.iter();
            letters
                .map(|(reason, count)| {
                    let labels = labelled("", sink, &format!(",reason=\"{reason}\""));
                    (labels, *count as f64)
                })
                .collect()
        },
    );
    put_effects(metrics, seen);
    let help = "1 for the state that the sink is in.";
    put(metrics, "state", "gauge", help, seen, |sink, figures| {
        let states = State::ALL.into_iter();
        states
            .map(|state| {
                let labels = labelled("", sink, &format!(",state=\"{}\"", state.name()));
                (labels, f64::from(u8::from(state == figures.state)))
            })
            .collect()
    });
}

/// Figures of the sinks whose events have effects.
fn put_effects(metrics: &mut Metrics, seen: &[SinkFigures]) {
    let help = "What came of effects: sent, retried (a failed attempt), refused or skipped (a dead letter).";
    let name = "effects_total";
    put(metrics, name, "counter", help, seen, |sink, figures| {
        let effects = figures.effects.iter();
        let counts = effects.flat_map(|effects| {
            [
                ("sent", effects.sent),
                ("retried", effects.retried),
                ("refused", effects.refused),
                ("skipped", effects.skipped),
            ]
        });
        counts
            .map(|(outcome, count)| {
                let labels = labelled("", sink, &format!(",outcome=\"{outcome}\""));
                (labels, count as f64)
            })
            .collect()
    });
    let waiting: fn(&EffectFigures) -> f64 = |effects| effects.waiting as f64;
    let oldest: fn(&EffectFigures) -> f64 = |effects| effects.oldest_waiting_seconds;
    for (name, help, pick) in [
        (
            "effects_waiting",
            "Events whose effect is not done.",
            waiting,
        ),
        (
            "effects_oldest_waiting_seconds",
            "Since the oldest of them was read; 0 where there is none.",
            oldest,
        ),
    ] {
        put(metrics, name, "gauge", help, seen, |sink, figures| {
            let effects = figures.effects.iter();
            effects
                .map(|effects| (labelled("", sink, ""), pick(effects)))
                .collect()
        });
    }
}

fn put(
    metrics: &mut Metrics,
    name: &str,
    kind: &str,
    help: &str,
    seen: &[SinkFigures],
    samples: impl Fn(&str, &Figures) -> Vec<Sample>,
) {
    let samples = seen
        .iter()
        .flat_map(|(sink, figures)| samples(sink, figures));
    let name = format!("companion_sink_{name}");
    metrics.family(&name, kind, help, samples.collect());
}

fn samples_of(sink: &str, histogram: &Histogram) -> Vec<Sample> {
    let bucket = |(bound, count): (f64, u64)| {
        let labels = labelled("_bucket", sink, &format!(",le=\"{bound}\""));
        (labels, count as f64)
    };
    let mut samples: Vec<Sample> = histogram.cumulative().map(bucket).collect();
    let count = histogram.count as f64;
    samples.push((labelled("_bucket", sink, ",le=\"+Inf\""), count));
    samples.push((labelled("_sum", sink, ""), histogram.sum));
    samples.push((labelled("_count", sink, ""), count));
    samples
}

fn labelled(suffix: &str, sink: &str, more: &str) -> String {
    format!("{suffix}{{sink=\"{sink}\"{more}}}")
}
