//! What is wrong with a sink of effects is told before anything starts.

use pg_cdc_tests::hand_made_events::{Source, bed};
use pg_cdc_tests::mail_server::MailServer;
use pg_cdc_tests::webhook_receiver::WebhookReceiver;

use super::{companion_sink, webhook};

fn mail(smtp: &str, from: &str, subject: &str) -> String {
    format!(
        "[sink.hook]\nkind = \"mail\"\ntopics = [\"x\"]\nsmtp = \"{smtp}\"\nfrom = \"{from}\"\nto = \"{{{{ after.email }}}}\"\n\
         subject = \"{subject}\"\nbody = \"b\"\n"
    )
}

/// What `check` says with these sinks, and how it ends.
fn check(source: &Source, toml: &str) -> (String, Option<i32>) {
    let output = companion_sink(source, toml).try_command(&["check"]);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (text, output.status.code())
}

#[test]
fn wrong_configurations_are_told_before_anything_starts() {
    let source = Source::new("effects_mistakes");
    let receiver = WebhookReceiver::start();
    let webhook = |more: &str| webhook(&source, &receiver, more);
    let near = "sink.hook: body: unknown variable \"aftr\", did you mean \"after\"?";
    for (toml, told) in [
        (webhook("body = \"{{ aftr.x }}\""), near),
        (
            webhook("body = \"{{ after.x \""),
            "sink.hook: body: syntax error",
        ),
        (webhook("body_file = \"/nowhere\""), "/nowhere"),
        (webhook("secret_file = \"/nowhere\""), "/nowhere"),
        (
            webhook("when = \"aftr.x == 1\""),
            "sink.hook: when: unknown variable",
        ),
        (webhook("timeuot = \"1s\""), "did you mean \"timeout\"?"),
        (webhook("on = [\"insert\"]"), "sink.hook.on"),
        (
            webhook("").replace(&receiver.url(), "ftp://h/"),
            "sink.hook: url: it begins neither",
        ),
        (mail("http://h", "a@b.c", "s"), "sink.hook: smtp: it begins"),
        (
            mail("smtp://h", "nobody", "s"),
            "sink.hook: from: it is no address",
        ),
        (
            mail("smtp://h", "a@b.c", "{{ x }}"),
            "sink.hook: subject: unknown variable",
        ),
    ] {
        let (text, code) = check(&source, &toml);
        assert!(text.contains(told), "{toml}\n{told}\n{text}");
        assert_eq!(code, Some(2), "{toml}\n{text}");
    }
}

#[test]
fn receivers_that_are_not_what_they_should_be_are_told() {
    let source = Source::new("effects_check");
    let receiver = WebhookReceiver::start();
    let server = MailServer::start(&bed().path("effects_check"));
    let plain = server.address();
    let to = |url: &str| webhook(&source, &receiver, "").replace(&receiver.url(), url);
    for (toml, told) in [
        (to("http://127.0.0.1:1/"), "webhook: Connection refused"),
        (to(&receiver.url().replace("http", "https")), "webhook: TLS"),
        (
            mail("smtp://127.0.0.1:1", "a@b.c", "s"),
            "smtp: Connection error",
        ),
        (mail(&format!("starttls://{plain}"), "a@b.c", "s"), "smtp: "),
        (mail(&format!("smtps://{plain}"), "a@b.c", "s"), "smtp: "),
    ] {
        let (text, _) = check(&source, &toml);
        let mut lines = text.lines();
        let is_told = |line: &str| line.contains(told) && line.contains("sink.hook");
        assert!(lines.any(is_told), "{toml}\n{told}\n{text}");
    }
    for toml in [
        to(&receiver.url()),
        mail(&format!("smtp://{plain}"), "a@b.c", "s"),
    ] {
        let (text, _) = check(&source, &toml);
        assert!(text.contains("the receiver answers"), "{text}");
    }
}
