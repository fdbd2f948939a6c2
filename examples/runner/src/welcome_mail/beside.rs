//! What billing, analytics and a consumer in JavaScript have of the sign-ups.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::base64::{decode_block, encode_block};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use pg_cdc_tests::printing_command::PrintingCommand;
use pg_cdc_tests::webhook_receiver::ReceivedRequest;
use pg_cdc_tests::{parts, topic, wait_until};
use serde_json::Value;

use super::mails::header;
use super::subscribers::{SECRET, Subscribers};
use super::system::{TOPIC, WelcomeMail, sign_up, sign_up_many};

const TIMEOUT: Duration = Duration::from_secs(60);

/// The first companion-sink is the same process, and sends nothing anew.
pub(super) fn begin(example: &mut WelcomeMail) -> String {
    let (mails, pid) = (example.mails.count(), example.sink.pid());
    let subscribers = Subscribers::start(example.place);
    sign_up(example, &["Lea"], &["lea@example.org"]);
    wait_until("billing's first request", TIMEOUT, || {
        let requests = subscribers.billing.requests();
        (requests.len() == 1)
            .then_some(())
            .ok_or(format!("{requests:?}"))
    });
    wait_until("Lea's mail", TIMEOUT, || {
        let more = example.mails.count() - mails;
        (more == 1).then_some(()).ok_or(more)
    });
    assert_eq!(example.sink.pid(), pid);
    example.subscribers = Some(subscribers);
    "a request and a mail for the next sign-up, nothing for earlier ones".to_owned()
}

/// Each sign-up since billing began, signed.
pub(super) fn billing(example: &mut WelcomeMail) -> String {
    let subscribers = example.subscribers.as_ref().expect("billing");
    let query = "SELECT count(*) FROM customer WHERE id >= (SELECT id FROM customer WHERE email = 'lea@example.org')";
    let customers: i64 = example
        .database
        .source()
        .query_one(query, &[])
        .expect(query)
        .get(0);
    let requests = wait_until("billing's requests", TIMEOUT, || {
        let requests = subscribers.billing.requests();
        let by_id: BTreeMap<String, ReceivedRequest> = requests
            .into_iter()
            .map(|request| (request.id().to_owned(), request))
            .collect();
        (by_id.len() as i64 == customers)
            .then_some(by_id.clone())
            .ok_or(by_id.len())
    });
    for request in requests.values() {
        verify(request);
    }
    let ids: BTreeMap<String, String> = example
        .mails
        .texts()
        .iter()
        .map(|mail| {
            let id = header(mail, "Message-ID: ")
                .trim_matches(['<', '>'])
                .replace("@example.org", "");
            (header(mail, "To: ").trim_matches(['<', '>']).to_owned(), id)
        })
        .collect();
    for (id, request) in &requests {
        let email = request.json()["after"]["email"]
            .as_str()
            .expect("an email")
            .to_owned();
        assert_eq!(ids.get(&email), Some(id), "the mail to {email}");
    }
    format!("{} requests", requests.len())
}

/// As Standard Webhooks wants it of a receiver: the signature, over id, time and body; and a time that is now.
fn verify(request: &ReceivedRequest) {
    let header = |name: &str| {
        request
            .headers
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing"))
    };
    let (timestamp, signatures) = (header("webhook-timestamp"), header("webhook-signature"));
    let key = PKey::hmac(&decode_block(SECRET).expect("base64")).expect("a key");
    let mut signer = Signer::new(MessageDigest::sha256(), &key).expect("a signer");
    signer
        .update(format!("{}.{timestamp}.", request.id()).as_bytes())
        .expect("sign");
    signer.update(&request.body).expect("sign");
    let signature = format!("v1,{}", encode_block(&signer.sign_to_vec().expect("sign")));
    assert!(
        signatures.split(' ').any(|one| one == signature),
        "{signatures}"
    );
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time")
        .as_secs();
    let sent: u64 = timestamp.parse().expect("seconds");
    assert!(now.abs_diff(sent) < 300, "sent at {sent}, now {now}");
}

/// All customers, those of before as well.
pub(super) fn analytics(example: &mut WelcomeMail) -> String {
    let query = "SELECT to_char(signed_up_at AT TIME ZONE 'Europe/Zurich', 'YYYY-MM-DD'), city, count(*)::text
         FROM customer GROUP BY 1, 2";
    let rows = example.database.source().query(query, &[]).expect(query);
    let mut wanted: Vec<[Option<String>; 3]> = rows
        .iter()
        .map(|row| [row.get(0), row.get(1), row.get(2)])
        .collect();
    wanted.sort();
    let subscribers = example.subscribers.as_ref().expect("analytics");
    let counted = wait_until("the statistics", TIMEOUT, || {
        let found = subscribers
            .analytics
            .objects(&["statistics", "sign_ups", "--json"]);
        let mut counted: Vec<[Option<String>; 3]> = found.iter().map(counted).collect();
        counted.sort();
        (counted == wanted)
            .then_some(counted)
            .ok_or(format!("{found:?}; wanted {wanted:?}"))
    });
    format!("{} days and cities, as in the table", counted.len())
}

fn counted(row: &Value) -> [Option<String>; 3] {
    let text = |name: &str| row[name].as_str().map(str::to_owned);
    [text("period"), text("city"), Some(row["count"].to_string())]
}

/// Everything that is in the topic, in the form that Debezium's readers know.
pub(super) fn consumer(example: &mut WelcomeMail) -> String {
    let statements = "UPDATE customer SET city = 'Genf' WHERE email = 'lea@example.org';
        DELETE FROM customer WHERE email = 'otto@example.org'";
    example
        .database
        .source()
        .batch_execute(statements)
        .expect(statements);
    // Some of them stand behind the tombstone.
    sign_up_many(example, "late", 20);
    example.database.wait_until_in_kafka();
    let records = topic::read(example.place.bed().kafka(), TOPIC);
    let events: Vec<Value> = records
        .iter()
        .filter(|record| record.value.is_some())
        .map(|record| serde_json::from_str(record.value_text()).expect("an event"))
        .collect();
    let mut node = Command::new("node");
    node.env("NODE_PATH", parts::kafkajs_modules());
    node.arg(example.place.file("consumer.js"))
        .arg(example.place.bed().kafka().brokers())
        .arg(TOPIC);
    let consumer = PrintingCommand::start(node, &example.place.own("consumer.log"));
    let printed = consumer.wait_for_objects("op", events.len());
    consumer.interrupt();
    let picked = |event: &Value| {
        let fields = ["before", "after", "source", "op"].map(|field| event[field].clone());
        Value::from(fields.to_vec()).to_string()
    };
    let mut wanted: Vec<String> = events.iter().map(picked).collect();
    let mut found: Vec<String> = printed.iter().map(picked).collect();
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
    let of = |op: &str| events.iter().filter(|event| event["op"] == op).count();
    format!("{} r, {} c, {} u, {} d", of("r"), of("c"), of("u"), of("d"))
}
