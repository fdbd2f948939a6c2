//! Rights in Kafka that the sender's user does not have.

use pg_cdc_tests::secure_listeners::SecureListeners;
use pg_cdc_tests::sender_status::{SenderStatus, wait_for_state};
use pg_cdc_tests::statements::insert_ids;
use pg_cdc_tests::{Database, TestBed, prefix_rule, wait_until};
use postgres::Client;

use super::secure_bed::{POSITIONS, SecureBed, TIMEOUT, assert_all_arrived, record_count};

/// Runs the command that a remedy of CDC0303 names, for `user`.
fn follow(bed: &TestBed, remedy: &str, user: &str) {
    let (_, command) = remedy
        .split_once("kafka-acls.sh ")
        .unwrap_or_else(|| panic!("no command in {remedy:?}"));
    let command = command.replace("NAME", user);
    // By the listener where the test is a super user.
    let arguments: Vec<&str> = command.split(' ').skip(2).collect();
    bed.kafka()
        .command("org.apache.kafka.tools.AclCommand", &arguments);
}

/// Adds or removes the right to write into the topic of `t`.
fn change_right(bed: &TestBed, action: &str) {
    let arguments = [
        action,
        "--allow-principal",
        "User:bob",
        "--operation",
        "Write",
        "--topic",
        "shop.public.t",
        "--force",
    ];
    bed.kafka()
        .command("org.apache.kafka.tools.AclCommand", &arguments);
}

#[test]
fn rights_that_are_missing_are_named_and_work_goes_on_when_they_are_there() {
    let secure = SecureBed::start_with(&[
        (
            "authorizer.class.name",
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        ),
        ("super.users", "User:ANONYMOUS"),
    ]);
    let bed = &secure.bed;
    let properties = secure.plain("bob", &SecureListeners::password("bob"));
    let (database, mut client) = secure.database(&secure.listeners.sasl(), &properties);

    remedies_alone_lead_to_the_end(bed, &database, &mut client);
    settings_that_cannot_be_read_are_told(bed, &database, &mut client);
    one_right_less_is_told_until_it_is_there(bed, &database, &mut client);
    bed.wait_until_streaming("shop");
    bed.source().assert_never_crashed();
}

/// Nothing is allowed at first.
fn remedies_alone_lead_to_the_end(bed: &TestBed, database: &Database<'_>, client: &mut Client) {
    insert_ids(client, 0..100);
    let mut followed: Vec<String> = Vec::new();
    while record_count(bed, &database.topic("t")) < 100 {
        let remedy = wait_until("another remedy, or the end", TIMEOUT, || {
            let seen = SenderStatus::of(client);
            let is_new = seen.code.as_deref() == Some("CDC0303")
                && seen.hint.contains("kafka-acls.sh")
                && !followed.contains(&seen.hint);
            if is_new {
                Ok(Some(seen.hint))
            } else if record_count(bed, &database.topic("t")) >= 100 {
                Ok(None)
            } else {
                Err(format!("{seen:?}"))
            }
        });
        if let Some(remedy) = remedy {
            follow(bed, &remedy, "bob");
            followed.push(remedy);
        }
    }
    let id = "--transactional-id pg_cdc.pg";
    for named in [POSITIONS, id, "shop.public.t", "shop.cdc-control"] {
        let is_named = followed.iter().any(|remedy| remedy.ends_with(named));
        assert!(is_named, "{named} is not in {followed:?}");
    }
    assert_eq!(followed.len(), 4, "{followed:?}");
    assert_all_arrived(database, 100);
}

/// What would be good to have is no reason to stop, but is told.
fn settings_that_cannot_be_read_are_told(
    bed: &TestBed,
    database: &Database<'_>,
    client: &mut Client,
) {
    let unread = |client: &mut Client| -> Option<String> {
        let query = "SELECT hint FROM cdc_check() WHERE code = 'CDC0303' AND item ~ 'public.t'";
        let line = client.query_opt(query, &[]).expect("at most one line");
        line.map(|line| line.get(0))
    };
    let remedy = unread(client).expect("settings that cannot be read");
    follow(bed, &remedy, "bob");
    bed.source().restart();
    *client = database.source();
    client
        .execute("DELETE FROM t WHERE id = 0", &[])
        .expect("a writer");
    database.wait_until_in_kafka();
    assert_eq!(unread(client), None);
}

/// One right less, while another table is written too.
fn one_right_less_is_told_until_it_is_there(
    bed: &TestBed,
    database: &Database<'_>,
    client: &mut Client,
) {
    client
        .batch_execute("CREATE TABLE u (id int PRIMARY KEY); SELECT cdc_track('u')")
        .expect("another table");
    let seen = wait_for_state(client, "waiting_for_kafka", Some("CDC0303"));
    follow(bed, &seen.hint, "bob");
    database.wait_until_in_kafka();
    change_right(bed, "--remove");
    let told_before = bed.source().log().matches("Write is not allowed").count();
    insert_ids(client, 100..200);
    client
        .batch_execute("INSERT INTO u SELECT generate_series(1, 100)")
        .expect("a writer goes on");
    let seen = wait_until("the right to be missed", TIMEOUT, || {
        let seen = SenderStatus::of(client);
        if seen.error.contains("Write is not allowed") {
            Ok(seen)
        } else {
            Err(format!("{seen:?}"))
        }
    });
    assert_eq!(
        (seen.state.as_str(), seen.code.as_deref()),
        ("waiting_for_kafka", Some("CDC0303"))
    );
    assert!(seen.hint.ends_with("shop.public.t"), "{seen:?}");
    // Positions are written meanwhile, which is no reason to say that all is well, nor to send anything again.
    let (positions, others) = (
        record_count(bed, POSITIONS),
        record_count(bed, "shop.public.u"),
    );
    wait_until("positions to be written", TIMEOUT, || {
        assert_eq!(SenderStatus::of(client), seen);
        match record_count(bed, POSITIONS) - positions {
            written if written >= 10 => Ok(()),
            written => Err(format!("{written}")),
        }
    });
    assert_eq!(record_count(bed, "shop.public.u"), others);
    let told = bed.source().log().matches("Write is not allowed").count() - told_before;
    assert_eq!(told, 1, "it is logged once");
    change_right(bed, "--add");
    assert_all_arrived(database, 200);
    let records = database.records("u");
    let changes = prefix_rule::assert_holds(&records);
    assert_eq!(changes.iter().filter(|e| e.is_row_change()).count(), 100);
}
