//! `topic tail --follow` while topics and brokers come and go.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::hand_made_events::TIMEOUT;
use pg_cdc_tests::printing_command::PrintingCommand;
use pg_cdc_tests::{TestBed, topic_admin, wait_until};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::looker::{each, kafka, looker};

#[test]
fn new_partitions_and_a_broker_that_comes_back_are_followed_until_the_topic_is_deleted() {
    let bed = TestBed::prepare(Ports::free(), &[], &[]);
    let topic = "followed.t";
    topic_admin::create(bed.kafka(), topic, 1);
    let producer: BaseProducer = bed.kafka().client_config().create().expect("a producer");
    let send = |partition: i32, value: &str| {
        let record = BaseRecord::<str, str>::to(topic)
            .partition(partition)
            .payload(value);
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("send");
        producer.flush(TIMEOUT).expect("Kafka takes it");
    };
    send(0, "old");
    let sink = looker(&bed.kafka().brokers());
    let mut command = sink.command();
    command.args(["topic", "tail", topic, "--follow"]);
    let following = PrintingCommand::start(command, &bed.path("followed"));
    let values = |count: usize| {
        let objects = following.wait_for_objects("offset", count);
        each(&objects, "value").concat()
    };
    assert_eq!(values(1), "\"old\"");
    send(0, "new");
    assert_eq!(values(2), "\"old\"\"new\"");

    topic_admin::add_partitions(bed.kafka(), topic, 2);
    // The producer's own list of partitions is old.
    let producer: BaseProducer = bed.kafka().client_config().create().expect("a producer");
    let record = BaseRecord::<str, str>::to(topic)
        .partition(1)
        .payload("beside");
    producer
        .send(record)
        .map_err(|(error, _)| error)
        .expect("send");
    producer.flush(TIMEOUT).expect("Kafka takes it");
    assert!(values(3).ends_with("\"beside\""));

    bed.kafka().restart();
    send(0, "again");
    assert!(values(4).ends_with("\"again\""));
    topic_admin::delete(bed.kafka(), topic);
    assert_eq!(following.wait_for_end(), Some(4));
}

#[test]
fn who_follows_for_a_reader_that_is_gone_ends() {
    let topic = "readers.t";
    topic_admin::create(kafka(), topic, 1);
    let producer: BaseProducer = kafka().client_config().create().expect("a producer");
    let send = || {
        let record = BaseRecord::<str, str>::to(topic).payload("x");
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("send");
        producer.flush(TIMEOUT).expect("Kafka takes it");
    };
    send();
    let sink = looker(&kafka().brokers());
    let mut command = sink.command();
    command.args(["topic", "tail", topic, "--follow"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("companion-sink");
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    output.read_line(&mut line).expect("a line");
    drop(output);
    let ended = wait_until("the command to end", TIMEOUT, || {
        send();
        child.try_wait().expect("its state").ok_or("it runs")
    });
    assert_eq!(ended.code(), Some(0));
}
