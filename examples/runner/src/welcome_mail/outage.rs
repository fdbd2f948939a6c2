//! What becomes of the mails while the server is down, hangs, refuses, and comes back.

use std::time::{Duration, Instant};

use pg_cdc_tests::statements::one_text;
use pg_cdc_tests::topic;
use pg_cdc_tests::wait_until;

use super::system::{
    TOPIC, WelcomeMail, addresses, sign_up, sign_up_many, wait_for_dead_letter, wait_for_mails,
    wait_until_idle,
};

const TIMEOUT: Duration = Duration::from_secs(60);
/// Who is in the table before it is tracked.
const BEFORE: [&str; 2] = ["olga@example.org", "otto@example.org"];
/// Who signs up while the server is down.
const DOWN: u32 = 30;
/// Who signs up while companion-sink is killed.
const KILLED: u32 = 400;

/// The snapshot's rows were read, and made no mail.
pub(super) fn nobody_of_before(example: &mut WelcomeMail) -> String {
    example.database.wait_until_snapshots_end();
    example.database.wait_until_in_kafka();
    let rows = topic::read(example.place.bed().kafka(), TOPIC);
    assert_eq!(
        rows.iter().filter(|row| row.op() == "r").count(),
        BEFORE.len()
    );
    wait_until_idle(example);
    assert_eq!(example.mails.count(), 0);
    format!("{} rows of the snapshot, no mail", BEFORE.len())
}

pub(super) fn one_mail(example: &mut WelcomeMail) -> String {
    let start = Instant::now();
    sign_up(example, &["Zoë <b>"], &["zoe@example.org"]);
    let came = wait_for_mails(example, &["zoe@example.org".to_owned()]);
    let took = start.elapsed();
    assert_eq!(came[0].count, 1, "{came:?}");
    let mail = example.mails.texts().pop().expect("a mail");
    for part in ["multipart/alternative", "text/plain", "text/html"] {
        assert!(mail.contains(part), "{part}: {mail}");
    }
    let markup = ["<h1>Welcome, Zo", "&lt;b&gt;"];
    let plain = mail.replace("=\r\n", "");
    assert!(markup.iter().all(|markup| plain.contains(markup)), "{mail}");
    format!("{:.0} ms after the sign-up", took.as_secs_f64() * 1e3)
}

/// Sign-ups with the server there and with the server away take the same time.
pub(super) fn server_is_down(example: &mut WelcomeMail) -> String {
    let up = sign_up_many(example, "up", DOWN);
    wait_for_mails(example, &addresses("up", DOWN));
    example.stop_mail_server();
    let sent = example.mails.count();
    let down = sign_up_many(example, "down", DOWN);
    sign_up(example, &["Typo"], &["typo@example.org"]);
    wait_until("all to have been tried", TIMEOUT, || {
        let effects = example.effects();
        let tried = effects
            .iter()
            .filter(|effect| effect["state"] == "retrying");
        let count = tried.count();
        (count == DOWN as usize + 1)
            .then_some(())
            .ok_or(format!("{count} of {effects:?}"))
    });
    assert_eq!(example.mails.count(), sent);
    format!(
        "sign-ups {}; with the server {}; {} mails wait",
        told(&down),
        told(&up),
        DOWN + 1
    )
}

/// One is skipped, the others are tried at once.
pub(super) fn server_comes_back(example: &mut WelcomeMail) -> String {
    let query = "SELECT format('{\"id\":%s}', id) FROM customer WHERE email = 'typo@example.org'";
    let key = one_text(&mut example.database.source(), query);
    let typo = example
        .effects()
        .into_iter()
        .find(|effect| effect["key"] == key);
    let typo = typo.expect("its effect");
    let id = typo["id"].as_str().expect("an id");
    let error = typo["last_error"].to_string();
    example
        .sink
        .run_command(&["effects", "skip", id, "--reason", "a typo", "--by", "ann"]);
    let letter = wait_for_dead_letter(example, "typo@example.org");
    assert_eq!(letter.header("cdc.dlq.reason"), Some("skipped"));
    example.start_mail_server();
    example.sink.run_command(&["effects", "retry", "--all"]);
    let came = wait_for_mails(example, &addresses("down", DOWN));
    assert!(came.iter().all(|received| received.count == 1), "{came:?}");
    wait_until_idle(example);
    assert!(example.effects().is_empty());
    format!("{} mails; 1 skipped; the error was {error}", came.len())
}

/// One is a dead letter, one waits alone.
pub(super) fn refused_and_hanging(example: &mut WelcomeMail) -> String {
    example.mail_server().misbehave_with("hang");
    sign_up(
        example,
        &["Refused", "Hanging"],
        &["refused@example.org", "hang@example.org"],
    );
    let start = Instant::now();
    let sign_ups = sign_up_many(example, "behind", DOWN);
    wait_for_mails(example, &addresses("behind", DOWN));
    let took = start.elapsed();
    let letter = wait_for_dead_letter(example, "refused@example.org");
    assert_eq!(letter.header("cdc.dlq.code"), Some("CDC1015"));
    wait_until("only the one that hangs to wait", TIMEOUT, || {
        let effects = example.effects();
        (effects.len() == 1 && effects[0]["state"] == "retrying")
            .then_some(())
            .ok_or(format!("{effects:?}"))
    });
    example.mail_server().behave_with("hang");
    example.sink.run_command(&["effects", "retry", "--all"]);
    let came = wait_for_mails(example, &["hang@example.org".to_owned()]);
    assert_eq!(came[0].ids.len(), 1, "{came:?}");
    wait_until_idle(example);
    format!(
        "sign-ups {}; {DOWN} behind them have theirs after {:.0} ms",
        told(&sign_ups),
        took.as_secs_f64() * 1e3
    )
}

/// Mails that the server has and companion-sink has not noted are sent once more, with the same id.
pub(super) fn killed(example: &mut WelcomeMail) -> String {
    wait_until_idle(example);
    let before = example.mails.count();
    let mut door = example.door();
    let all = format!(
        "INSERT INTO customer (name, email) SELECT 'Kim', 'killed' || i || '@example.org' FROM generate_series(1, {KILLED}) i"
    );
    door.batch_execute(&all).expect("sign up");
    wait_until("the first mails", TIMEOUT, || {
        let sent = example.mails.count() - before;
        (sent >= 20).then_some(()).ok_or(sent)
    });
    example.sink.kill();
    let then = example.mails.count() - before;
    let start = Instant::now();
    example.sink.start();
    let came = wait_for_mails(example, &addresses("killed", KILLED));
    let took = start.elapsed();
    wait_until_idle(example);
    assert!(
        came.iter().all(|received| received.ids.len() == 1),
        "{came:?}"
    );
    let twice = example.mails.count() - before - came.len();
    format!(
        "after {then} of {KILLED}; the rest {:.1} s later; {twice} came twice, with one Message-ID",
        took.as_secs_f64()
    )
}

/// Everybody but the one who was skipped and the one who is refused.
pub(super) fn at_the_end(example: &mut WelcomeMail) -> String {
    wait_until_idle(example);
    let query = "SELECT email FROM customer WHERE email <> ALL ($1)";
    let without = [
        BEFORE[0],
        BEFORE[1],
        "typo@example.org",
        "refused@example.org",
    ]
    .as_slice();
    let customers = example
        .database
        .source()
        .query(query, &[&without])
        .expect(query);
    let mails = example.mails.by_address();
    for customer in &customers {
        let received = mails.get(customer.get::<_, &str>(0)).expect("a mail");
        assert_eq!(received.ids.len(), 1, "{received:?}");
    }
    assert_eq!(mails.len(), customers.len(), "addresses with mails");
    let count: usize = mails.values().map(|received| received.count).sum();
    format!("{} customers, {count} mails", customers.len())
}

/// How long sign-ups took, of which times are sorted. The sink gives a mail three seconds: who waited for it would see that.
fn told(times: &[Duration]) -> String {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let (p50, largest) = (times[times.len() / 2], times[times.len() - 1]);
    assert!(
        largest < Duration::from_secs(3),
        "a sign-up took {largest:?}"
    );
    format!(
        "p50 {:.1} ms, largest {:.1} ms",
        milliseconds(p50),
        milliseconds(largest)
    )
}
