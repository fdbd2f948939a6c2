//! A mail for each event.

use lettre::address::Envelope;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::AsyncSmtpTransportBuilder;
use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::response::Code as ReplyCode;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use hyper::Uri;
use std::path::Path;

use crate::config::{MailSettings, read_secret};
use crate::effect::state::unfinished::Unfinished;
use crate::effect::target::outcome::Outcome;
use crate::effect::target::template::{Makes, Template, TemplateSubject};
use crate::error::{Code, Result, misconfigured};
use crate::rejected::failure::{Failure, Stage};

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// What mails are made of.
pub(crate) struct Letters {
    from: Mailbox,
    to: Vec<Template>,
    subject: Template,
    text: Option<Template>,
    html: Option<Template>,
}

/// Sends mails.
pub(crate) struct Mail {
    letters: Letters,
    transport: Transport,
}

/// What `smtp` says.
struct SmtpUrl {
    host: String,
    port: u16,
    security: Security,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    None,
    StartTls,
    Tls,
}

impl SmtpUrl {
    fn parse(url: &str) -> Result<SmtpUrl> {
        let wrong = |what: &str| {
            misconfigured(
                format!("smtp: {what}"),
                "Write smtp://host:25, starttls://host:587 or smtps://host:465; who logs in stands in user and password_file.",
            )
        };
        let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
        let (security, port) = match uri.scheme_str() {
            Some("smtp") => (Security::None, 25),
            Some("starttls") => (Security::StartTls, 587),
            Some("smtps") => (Security::Tls, 465),
            _ => {
                return Err(wrong(
                    "it begins with none of smtp://, starttls:// and smtps://",
                ));
            }
        };
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it has a user"));
        }
        if authority.host().is_empty() || !matches!(uri.path(), "" | "/") {
            return Err(wrong("it is not a host and a port"));
        }
        Ok(SmtpUrl {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(port),
            security,
        })
    }
}

/// Whether what goes to the server is encrypted; none where the URL is wrong.
pub(crate) fn is_encrypted(url: &str) -> Option<bool> {
    let url = SmtpUrl::parse(url).ok()?;
    Some(url.security != Security::None)
}

impl Letters {
    /// Reads templates and addresses.
    pub(crate) fn read(settings: &MailSettings) -> Result<Letters> {
        let from = settings.from.parse().map_err(|_| no_address("from"))?;
        let mut to = Vec::with_capacity(settings.to.len());
        for text in &settings.to {
            let template = Template::new("to", text, Makes::Text)?;
            if template.is_constant() && text.parse::<Mailbox>().is_err() {
                return Err(no_address("to"));
            }
            to.push(template);
        }
        Ok(Letters {
            from,
            to,
            subject: Template::new("subject", &settings.subject, Makes::Text)?,
            text: Template::read("body", &settings.body, &settings.body_file, Makes::Text)?,
            html: Template::read("html", &settings.html, &settings.html_file, Makes::Html)?,
        })
    }

    /// The mail of an event. It has the event's id, however often it is made.
    fn write(&self, event: &Unfinished) -> std::result::Result<Message, Failure> {
        let subject = TemplateSubject::read(&event.record)?;
        let id = format!("<{}@{}>", event.id(), self.from.email.domain());
        let heading = on_one_line(&self.subject.render(&subject)?);
        let mut receivers = Vec::with_capacity(self.to.len());
        for template in &self.to {
            let text = on_one_line(&template.render(&subject)?);
            if text.is_empty() {
                continue;
            }
            // One address each: whoever may write a row does not choose how many get the mail.
            let receiver: Mailbox = text.parse().map_err(|_| no_receiver("is no address"))?;
            receivers.push(receiver);
        }
        if receivers.is_empty() {
            return Err(no_receiver("is empty"));
        }
        let addresses = receivers.iter().map(|receiver| receiver.email.clone());
        let envelope = Envelope::new(Some(self.from.email.clone()), addresses.collect());
        let envelope = envelope.map_err(|_| no_receiver("is no address"))?;
        let mut message = Message::builder()
            .from(self.from.clone())
            .message_id(Some(id))
            .subject(heading)
            .envelope(envelope);
        for receiver in receivers {
            message = message.to(receiver);
        }
        let render = |template: &Option<Template>| {
            let made = template.as_ref().map(|template| template.render(&subject));
            made.transpose()
        };
        let part = |text: String, kind: ContentType| SinglePart::builder().header(kind).body(text);
        let message = match (render(&self.text)?, render(&self.html)?) {
            (Some(text), Some(html)) => message.multipart(
                MultiPart::alternative()
                    .singlepart(part(text, ContentType::TEXT_PLAIN))
                    .singlepart(part(html, ContentType::TEXT_HTML)),
            ),
            (None, Some(html)) => message.singlepart(part(html, ContentType::TEXT_HTML)),
            (text, None) => {
                message.singlepart(part(text.unwrap_or_default(), ContentType::TEXT_PLAIN))
            }
        };
        message.map_err(|error| Failure::effect_refused(format!("no mail can be made: {error}")))
    }
}

impl Mail {
    /// Reads what the settings name. Connects nowhere.
    pub(crate) fn new(settings: &MailSettings) -> Result<Mail> {
        Ok(Mail {
            letters: Letters::read(settings)?,
            transport: transport(settings)?.build(),
        })
    }

    /// Connects and logs in, to see whether the server takes mails; why not, in words.
    pub(crate) async fn try_connect(&self) -> std::result::Result<(), String> {
        match self.transport.test_connection().await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the server closes the connection".to_owned()),
            Err(error) => Err(told(&error)),
        }
    }

    /// Sends the mail of an event.
    pub(crate) async fn attempt(&self, event: &Unfinished) -> Outcome {
        let mail = match self.letters.write(event) {
            Ok(mail) => mail,
            Err(failure) => return Outcome::Refused(failure),
        };
        let Err(error) = self.transport.send(mail).await else {
            return Outcome::Done;
        };
        // Where the server takes nobody's mail, or does not let us in, it is not the mail that it refuses.
        match error.is_permanent() && self.try_connect().await.is_ok() {
            true => Outcome::Refused(Failure::effect_refused(told(&error))),
            false => Outcome::again(told(&error)),
        }
    }
}

/// Reads what the settings of a sink name; fails for what cannot be meant.
pub(crate) fn check(settings: &MailSettings) -> Result<()> {
    Letters::read(settings)?;
    transport(settings).map(drop)
}

/// The way to the server that the settings name.
fn transport(settings: &MailSettings) -> Result<AsyncSmtpTransportBuilder> {
    let url = SmtpUrl::parse(settings.smtp.reveal())?;
    let tls = || {
        TlsParameters::new(url.host.clone()).map_err(|error| {
            misconfigured(
                format!("smtp: TLS: {error}"),
                "Write the server's name, as its certificate has it.",
            )
        })
    };
    let tls = match url.security {
        Security::None => Tls::None,
        Security::StartTls => Tls::Required(tls()?),
        Security::Tls => Tls::Wrapper(tls()?),
    };
    let timeout = Some(settings.effect.timeout);
    let pool = PoolConfig::new().max_size(settings.effect.concurrency);
    let mut transport = Transport::builder_dangerous(url.host)
        .port(url.port)
        .tls(tls)
        .timeout(timeout)
        .pool_config(pool);
    if let Some(credentials) = credentials(settings)? {
        transport = transport.credentials(credentials);
    }
    Ok(transport)
}

fn credentials(settings: &MailSettings) -> Result<Option<Credentials>> {
    match (settings.user.is_empty(), settings.password_file.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => {
            let password = read_secret(Path::new(&settings.password_file))?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            Ok(Some(Credentials::new(settings.user.clone(), password)))
        }
        _ => Err(misconfigured(
            "user and password_file: one is set without the other",
            "Set both, or none.",
        )),
    }
}

/// What the server said, without its text: that may quote an address.
fn told(error: &lettre::transport::smtp::Error) -> String {
    let number = |code: ReplyCode| format!("the server answers {code}");
    match error.status() {
        Some(code) => number(code),
        None if error.is_timeout() => "the server does not answer in time".to_owned(),
        None => error.to_string(),
    }
}

fn no_address(key: &str) -> change::trouble::Trouble {
    misconfigured(
        format!("{key}: it is no address"),
        "Write it as \"ann@example.org\" or \"Ann <ann@example.org>\", several as a list.",
    )
}

fn no_receiver(why: &str) -> Failure {
    Failure {
        code: Code::EffectRefused,
        reason: "recipient".into(),
        stage: Stage::Transformation,
        message: format!("to: what the template makes of the event {why}"),
        state: None,
    }
}

/// Nothing of a row may begin a header.
fn on_one_line(text: &str) -> String {
    text.replace(char::is_control, " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::record::Record;

    fn settings() -> MailSettings {
        MailSettings {
            smtp: "smtp://localhost".into(),
            from: "Shop <shop@example.org>".into(),
            to: vec!["{{ after.email }}".into()],
            subject: "Welcome, {{ after.name }}".into(),
            body: "Hi {{ after.name }}".into(),
            ..MailSettings::default()
        }
    }

    fn write(settings: &MailSettings, after: &str) -> std::result::Result<String, Failure> {
        let value = format!("{{\"op\":\"c\",\"after\":{after}}}");
        let headers: [(&str, Option<&[u8]>); 1] = [("cdc.id", Some(b"ab-1"))];
        let (value, headers) = (Some(value.as_bytes()), headers.into_iter());
        let record = Record::new("t".into(), 0, 0, None, value, headers);
        let mail = Letters::read(settings)
            .unwrap()
            .write(&Unfinished::new(record, 0))?;
        Ok(String::from_utf8(mail.formatted()).unwrap())
    }

    #[test]
    fn a_mail_has_the_events_id() {
        let eva = r#"{"name":"Eva","email":"eva@example.org"}"#;
        let mail = write(&settings(), eva).unwrap();
        for line in [
            "Message-ID: <ab-1@example.org>",
            "To: eva@example.org",
            "Subject: Welcome, Eva",
            "Hi Eva",
        ] {
            assert!(mail.lines().any(|found| found == line), "{line}\n{mail}");
        }
        let html = MailSettings {
            html: "<b>{{ after.name }}</b>".into(),
            ..settings()
        };
        let mail = write(&html, eva).unwrap();
        assert!(mail.contains("multipart/alternative") && mail.contains("<b>Eva</b>"));
    }

    #[test]
    fn no_value_begins_a_header() {
        let evil = r#"{"name":"Eva\r\nBcc: all@example.org\r\n\r\nx","email":"eva@example.org"}"#;
        let mail = write(&settings(), evil).unwrap();
        let (head, _) = mail.split_once("\r\n\r\n").unwrap();
        assert!(!head.to_lowercase().contains("\nbcc:"), "{mail}");
        for email in [
            "a@example.org, b@example.org",
            "a@example.org\\r\\nBcc: b@example.org",
            "eva",
            "",
        ] {
            let after = format!("{{\"name\":\"Eva\",\"email\":\"{email}\"}}");
            let failure = write(&settings(), &after).unwrap_err();
            assert_eq!(failure.reason, "recipient", "{email}");
            assert!(
                !failure.message.contains("example.org"),
                "{}",
                failure.message
            );
        }
        let nobody = write(&settings(), r#"{"name":"Eva","email":null}"#).unwrap_err();
        assert_eq!(nobody.reason, "recipient");
    }

    #[test]
    fn mistakes_are_found_before_any_event() {
        let told = |settings: &MailSettings| {
            let error = check(settings).err();
            error.map(|error| error.message).unwrap_or_default()
        };
        let with = |change: fn(&mut MailSettings)| {
            let mut settings = settings();
            change(&mut settings);
            told(&settings)
        };
        assert!(with(|mail| mail.from = "shop".into()).contains("from: it is no address"));
        assert!(with(|mail| mail.to = vec!["eva".into()]).contains("to: it is no address"));
        assert!(with(|mail| mail.smtp = "http://h".into()).contains("smtp: it begins"));
        assert!(with(|mail| mail.smtp = "smtp://u:p@h".into()).contains("smtp: it has a user"));
        assert!(with(|mail| mail.user = "u".into()).contains("password_file"));
        assert!(with(|mail| mail.subject = "{{ x }}".into()).contains("subject: unknown"));
        assert_eq!(is_encrypted("starttls://h"), Some(true));
        assert_eq!(is_encrypted("smtp://h:26"), Some(false));
    }
}
