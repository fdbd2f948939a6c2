//! What people do to topics: make them, delete them, give them more partitions.

use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::Kafka;
use crate::topic;
use crate::wait_until;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Makes a topic and waits until the broker shows it.
///
/// # Panics
/// When the broker refuses.
pub fn create(kafka: &Kafka, name: &str, partitions: i32) {
    let new_topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let client = client(kafka);
    done(block_on(
        client.create_topics([&new_topic], &AdminOptions::new()),
    ));
    wait_until_there(kafka, name, true);
}

/// Deletes a topic and waits until it is gone.
///
/// # Panics
/// When the broker refuses.
pub fn delete(kafka: &Kafka, name: &str) {
    done(block_on(
        client(kafka).delete_topics(&[name], &AdminOptions::new()),
    ));
    wait_until_there(kafka, name, false);
}

/// What the broker says of its topics comes a moment after what was done to them.
fn wait_until_there(kafka: &Kafka, name: &str, wanted: bool) {
    wait_until("the broker to know of it", TIMEOUT, || {
        let is_there = topic::names(kafka).iter().any(|there| there == name);
        (is_there == wanted).then_some(()).ok_or(is_there)
    });
}

/// Gives a topic more partitions.
///
/// # Panics
/// When the broker refuses.
pub fn add_partitions(kafka: &Kafka, name: &str, partitions: usize) {
    let wanted = NewPartitions::new(name, partitions);
    done(block_on(
        client(kafka).create_partitions([&wanted], &AdminOptions::new()),
    ));
}

/// Gives a topic one setting; its other ones become the broker's.
///
/// # Panics
/// When the broker refuses.
pub fn set(kafka: &Kafka, name: &str, setting: &str, value: &str) {
    set_all(kafka, name, &[(setting, value)]);
}

/// Gives a topic these settings; its other ones become the broker's.
///
/// # Panics
/// When the broker refuses.
pub fn set_all(kafka: &Kafka, name: &str, settings: &[(&str, &str)]) {
    alter(kafka, ResourceSpecifier::Topic(name), settings);
}

/// Gives the first broker settings that it takes while it runs.
///
/// # Panics
/// When the broker refuses.
pub fn set_for_broker(kafka: &Kafka, settings: &[(&str, &str)]) {
    alter(kafka, ResourceSpecifier::Broker(1), settings);
}

fn alter(kafka: &Kafka, of: ResourceSpecifier<'_>, settings: &[(&str, &str)]) {
    let wanted = settings.iter();
    let wanted = wanted.fold(AlterConfig::new(of), |wanted, (name, value)| {
        wanted.set(name, value)
    });
    let answers = block_on(client(kafka).alter_configs([&wanted], &AdminOptions::new()));
    for answer in answers.expect("the broker's answer") {
        answer.expect("what was to be altered");
    }
}

/// Removes the records of a partition before `offset`, as retention does.
///
/// # Panics
/// When the broker refuses.
pub fn trim(kafka: &Kafka, name: &str, partition: i32, offset: i64) {
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(name, partition, Offset::Offset(offset))
        .expect("an offset");
    let answer = block_on(client(kafka).delete_records(&before, &AdminOptions::new()));
    let answer = answer.expect("the broker's answer");
    for partition in answer.elements() {
        partition.error().expect("the partition");
    }
}

fn client(kafka: &Kafka) -> AdminClient<DefaultClientContext> {
    kafka.client_config().create().expect("an admin client")
}

type Answers = Result<Vec<Result<String, (String, RDKafkaErrorCode)>>, rdkafka::error::KafkaError>;

fn done(answers: Answers) {
    for answer in answers.expect("the broker's answer") {
        answer.expect("the topic");
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(future)
}
