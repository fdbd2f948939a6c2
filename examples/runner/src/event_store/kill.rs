//! An instance dies, or freezes, while others write.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pg_cdc_tests::wait_until;
use serde_json::{Value, json};

use super::system::{EventStore, TIMEOUT, expect, tag, text};

const WRITERS: usize = 6;
const DAY: &str = "2026-11-23";

/// What somebody does who wants each of their changes to be made once.
struct Writer {
    urls: Vec<String>,
    account: String,
    agent: ureq::Agent,
    /// The longest time from one success to the next.
    longest: Duration,
}

/// Status, ETag, body.
type Seen = (u16, String, Value);

impl Writer {
    fn new(example: &EventStore, number: usize) -> Writer {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        Writer {
            urls: example
                .running()
                .iter()
                .map(|service| service.url())
                .collect(),
            account: format!("/accounts/w{number}"),
            agent: config.timeout_global(Some(TIMEOUT)).build().new_agent(),
            longest: Duration::ZERO,
        }
    }

    /// None when nobody answers at that address.
    fn ask(&self, turn: usize, method: &str, path: &str, tag: &str, body: &Value) -> Option<Seen> {
        let url = &self.urls[turn % self.urls.len()];
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{url}{path}"))
            .header("if-match", tag);
        let answer = match body {
            Value::Null => self.agent.run(request.body(()).expect("a request")),
            body => self
                .agent
                .run(request.body(body.to_string()).expect("a request")),
        };
        let mut answer = answer.ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        let tag = answer.headers().get("etag");
        let tag = tag.map_or("", |tag| tag.to_str().expect("text")).to_owned();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Some((answer.status().as_u16(), tag, body))
    }

    /// Changes the account and publishes an event, again and again, until `stop`; how often.
    fn write(&mut self, stop: impl Fn(usize) -> bool) -> usize {
        let mut turn = 0;
        let mut tag = self.read(&mut turn).0;
        let mut number = 0;
        let mut last = Instant::now();
        while !stop(number) {
            number += 1;
            tag = self.change(&mut turn, tag, number);
            let event = json!({"id": format!("e{number}"), "type": "order", "amount_cents": 1, "time": format!("{DAY}T00:00:00Z")});
            let path = format!("{}/events", self.account);
            // An event is published once, however often it is told.
            while !self
                .ask(turn, "POST", &path, "*", &event)
                .is_some_and(|(status, ..)| status == 200 || status == 201)
            {
                turn += 1;
            }
            self.longest = self.longest.max(last.elapsed());
            last = Instant::now();
            turn += 1;
        }
        number
    }

    /// One change: where the answer is missing, the version says whether it was made.
    fn change(&self, turn: &mut usize, mut tag: String, number: usize) -> String {
        loop {
            let body = json!({"name": number.to_string()});
            match self.ask(*turn, "PUT", &self.account, &tag, &body) {
                Some((200, tag, _)) => return tag,
                Some((412 | 503, ..)) | None => {
                    let (now, name) = self.read(turn);
                    if name == number.to_string() {
                        return now;
                    }
                    tag = now;
                }
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    fn read(&self, turn: &mut usize) -> (String, String) {
        loop {
            match self.ask(*turn, "GET", &self.account, "*", &Value::Null) {
                Some((200, tag, account)) => return (tag, text(&account["name"])),
                _ => *turn += 1,
            }
        }
    }
}

/// Kills one while all write, until each has written for a while after that.
pub(super) fn while_it_writes(example: &mut EventStore) -> String {
    const BEFORE: usize = 8;
    const AFTER: usize = 15;
    for number in 0..WRITERS {
        example.create(0, &format!("w{number}"));
    }
    let killed = example.instances[2].running.take().expect("it runs");
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|number| Writer::new(example, number))
        .collect();
    // They know of the third one, too.
    writers
        .iter_mut()
        .for_each(|writer| writer.urls.push(killed.url()));
    let done: Vec<AtomicUsize> = (0..WRITERS).map(|_| AtomicUsize::new(0)).collect();
    let last = AtomicUsize::new(usize::MAX);
    thread::scope(|scope| {
        for (writer, done) in writers.iter_mut().zip(&done) {
            let last = &last;
            scope.spawn(move || {
                writer.write(|number| {
                    done.store(number, Ordering::Relaxed);
                    number >= last.load(Ordering::Relaxed)
                })
            });
        }
        let least = || done.iter().map(|done| done.load(Ordering::Relaxed)).min();
        let wait = |count: usize| {
            wait_until("the writers", TIMEOUT, || match least() {
                Some(least) if least >= count => Ok(()),
                least => Err(format!("{least:?}")),
            });
        };
        wait(BEFORE);
        killed.kill();
        let most = done.iter().map(|done| done.load(Ordering::Relaxed)).max();
        last.store(most.unwrap_or_default() + AFTER, Ordering::Relaxed);
    });
    let mut total = 0;
    for (number, done) in done.iter().enumerate() {
        let done = done.load(Ordering::Relaxed);
        for service in example.running() {
            let account = service.ask("GET", &format!("/accounts/w{number}"), &[]);
            assert_eq!(account.body["name"], done.to_string(), "{account:?}");
            assert_eq!(account.body["version"], done + 1, "{account:?}");
            let path = format!("/accounts/w{number}/events?limit=1000");
            let events = service.ask("GET", &path, &[]);
            let ids = events.body["events"].as_array().expect("events").iter();
            let ids: Vec<_> = ids.map(|event| text(&event["id"])).collect();
            let wanted: Vec<_> = (1..=done).map(|number| format!("e{number}")).collect();
            assert_eq!(ids, wanted);
        }
        (0..done).for_each(|_| example.note(DAY, "order", 1));
        total += done;
    }
    example.start_instance(2);
    example.wait_until_served();
    let longest = writers.iter().map(|writer| writer.longest).max();
    let seconds = longest.unwrap_or_default().as_secs_f64();
    format!("{total} changes and events; others took over within {seconds:.1} s")
}

/// Freezes one until others have taken over, changes what it had, and asks it.
pub(super) fn frozen(example: &EventStore) -> String {
    let frozen = example.instance(1);
    let ids: Vec<String> = (0..12).map(|number| format!("a{number:03}")).collect();
    frozen.signal(libc::SIGSTOP);
    let mut read = Vec::new();
    for id in &ids {
        let path = format!("/accounts/{id}");
        let tag = tag(&example.instance(0).ask("GET", &path, &[]));
        let body = json!({"name": "while it was frozen"});
        let changed = example
            .instance(0)
            .ask_with("PUT", &path, &[("if-match", &tag)], &body);
        expect(200, &changed);
        read.push((path, changed.body));
    }
    frozen.signal(libc::SIGCONT);
    for (path, account) in &read {
        let answer = frozen.ask("GET", path, &[]);
        expect(200, &answer);
        assert_eq!(&answer.body, account, "{path}");
    }
    example.wait_until_served();
    format!("{} accounts", ids.len())
}
