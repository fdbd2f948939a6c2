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

#[test]
fn check_tells_what_is_wrong() {
    let source = Source::new("effects_check");
    let receiver = WebhookReceiver::start();
    let server = MailServer::start(&bed().path("effects_check"));
    let plain = server.address();
    let webhook = |more: &str| webhook(&source, &receiver, more);
    let to = |url: &str| webhook("").replace(&receiver.url(), url);
    for (toml, exit, told) in [
        (
            webhook("body = \"{{ aftr.x }}\""),
            2,
            "sink.hook: body: unknown variable \"aftr\", did you mean \"after\"?",
        ),
        (
            webhook("body = \"{{ after.x \""),
            2,
            "sink.hook: body: syntax error",
        ),
        (webhook("body_file = \"/nowhere\""), 2, "/nowhere"),
        (webhook("secret_file = \"/nowhere\""), 2, "/nowhere"),
        (
            webhook("when = \"aftr.x == 1\""),
            2,
            "sink.hook: when: unknown variable",
        ),
        (webhook("timeuot = \"1s\""), 2, "did you mean \"timeout\"?"),
        (webhook("on = [\"insert\"]"), 2, "sink.hook.on"),
        (to("ftp://h/"), 2, "sink.hook: url: it begins neither"),
        (to("http://127.0.0.1:1/"), 5, "webhook: Connection refused"),
        (
            to(&receiver.url().replace("http", "https")),
            5,
            "webhook: TLS",
        ),
        (
            mail("http://h", "a@b.c", "s"),
            2,
            "sink.hook: smtp: it begins",
        ),
        (
            mail("smtp://h", "nobody", "s"),
            2,
            "sink.hook: from: it is no address",
        ),
        (
            mail("smtp://h", "a@b.c", "{{ x }}"),
            2,
            "sink.hook: subject: unknown variable",
        ),
        (
            mail("smtp://127.0.0.1:1", "a@b.c", "s"),
            5,
            "smtp: Connection error",
        ),
        (
            mail(&format!("starttls://{plain}"), "a@b.c", "s"),
            5,
            "smtp: ",
        ),
        (mail(&format!("smtps://{plain}"), "a@b.c", "s"), 5, "smtp: "),
    ] {
        let sink = companion_sink(&source, &toml);
        let output = sink.try_command(&["check"]);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text.lines();
        let of_sink: Vec<&str> = lines.filter(|line| line.contains(told)).collect();
        assert!(!of_sink.is_empty(), "{toml}\n{told}\n{text}");
        if exit == 2 {
            assert_eq!(output.status.code(), Some(2), "{toml}\n{text}");
        }
    }
    for toml in [webhook(""), mail(&format!("smtp://{plain}"), "a@b.c", "s")] {
        let sink = companion_sink(&source, &toml);
        let output = sink.try_command(&["check"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("the receiver answers"), "{text}");
    }
}
