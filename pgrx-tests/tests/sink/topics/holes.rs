//! Topics in which not every offset has a record.

use std::time::Duration;

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::hand_made_events::TIMEOUT;
use pg_cdc_tests::{TestBed, topic_admin, wait_until};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::looker::{each, ended, kafka, looker, tail};

#[test]
fn trimmed_topics_and_those_of_transactions_have_holes() {
    let topic = "holes.t";
    topic_admin::create(kafka(), topic, 2);
    let producer: BaseProducer = kafka()
        .client_config()
        .set("transactional.id", "holes")
        .create()
        .expect("a producer");
    producer.init_transactions(TIMEOUT).expect("begin");
    let send = |value: &str| {
        let record = BaseRecord::<str, str>::to(topic)
            .payload(value)
            .partition(0);
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("send");
    };
    let transaction = |values: &[&str], end: &dyn Fn()| {
        producer.begin_transaction().expect("begin");
        values.iter().for_each(|value| send(value));
        producer.flush(TIMEOUT).expect("Kafka takes it");
        end();
    };
    let commit = || producer.commit_transaction(TIMEOUT).expect("commit");
    let abort = || producer.abort_transaction(TIMEOUT).expect("abort");
    transaction(&["one", "two"], &commit);
    for _ in 0..40 {
        transaction(&["never"], &abort);
    }
    let sink = looker(&kafka().brokers());
    let values = |more: &[&str]| each(&tail(&sink, topic, more), "value");
    // Nothing but what was aborted is in the last pieces.
    assert_eq!(values(&[]), ["\"one\"", "\"two\""]);
    assert_eq!(values(&["-n", "1"]), ["\"two\""]);
    transaction(&["three"], &commit);
    transaction(&["open"], &|| {});
    assert_eq!(values(&["-n", "2"]), ["\"two\"", "\"three\""]);
    abort();

    let (code, said) = ended(&sink, &["topic", "show", topic, "0:2"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.contains("a transaction's mark is there; the next one is at 0:"),
        "{said}"
    );
    topic_admin::trim(kafka(), topic, 0, 1);
    assert_eq!(values(&[]), ["\"two\"", "\"three\""]);
    let (_, said) = ended(&sink, &["topic", "show", topic, "0:0"]);
    assert!(said.contains("the partition has 1 up to"), "{said}");
    let listed = sink.objects(&["topic", "list", topic]);
    assert!(
        listed[0]["newest"].is_string() && listed[0]["kind"] == "unknown",
        "{listed:?}"
    );
    // Nothing is left.
    let end = listed[0]["events"].as_i64().expect("a number") + 1;
    topic_admin::trim(kafka(), topic, 0, end);
    wait_until("nothing to be left", TIMEOUT, || {
        let (code, said) = ended(&sink, &["topic", "tail", topic]);
        (code == Some(4)).then_some(()).ok_or(said)
    });
}

#[test]
fn what_compaction_has_left_is_shown() {
    let compacting = [
        ("log.cleaner.backoff.ms", "100"),
        ("log.cleaner.min.cleanable.ratio", "0.01"),
        ("log.roll.ms", "500"),
    ];
    let bed = TestBed::prepare(Ports::free(), &[], &compacting);
    let topic = "compacted.t";
    topic_admin::create(bed.kafka(), topic, 1);
    topic_admin::set(bed.kafka(), topic, "cleanup.policy", "compact");
    let producer: BaseProducer = bed.kafka().client_config().create().expect("a producer");
    let send = |key: &str, value: &str| {
        let record = BaseRecord::to(topic).key(key).payload(value);
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("send");
    };
    for number in 0..500 {
        send("many", &number.to_string());
    }
    send("one", "only");
    producer.flush(TIMEOUT).expect("Kafka takes it");
    let sink = looker(&bed.kafka().brokers());
    let key = |key: &str| tail(&sink, topic, &["--key", key, "-n", "1000"]);
    assert_eq!(each(&key("many"), "value").len(), 500);
    wait_until("the topic to be compacted", 4 * TIMEOUT, || {
        // The newest piece of a log is not compacted.
        send("later", "x");
        producer
            .flush(Duration::from_secs(10))
            .expect("Kafka takes it");
        let left = key("many").len();
        (left == 1).then_some(()).ok_or(left)
    });
    assert_eq!(each(&key("many"), "value"), ["499"]);
    assert_eq!(each(&key("one"), "value"), ["\"only\""]);
    let (code, said) = ended(&sink, &["topic", "show", topic, "0:3"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("the next one is at 0:499"), "{said}");
    let listed = sink.objects(&["topic", "list", topic]);
    assert_eq!(listed[0]["cleanup_policy"], "compact");
}
