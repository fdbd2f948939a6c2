//! What `check` warns of: ways on which others could read along, or take the target's place, and files that they could read.

use std::os::unix::fs::MetadataExt;

use mongodb::options::{ClientOptions, ServerAddress, Tls};

use crate::config::shown_url::Url;
use crate::config::{Kind, Loaded, MailSettings, SinkSettings, shown_url};
use crate::effect::target::mail::is_encrypted;
use crate::error::Result;
use crate::sink::postgres::verification::Verification;

/// What is weak, and what to do.
pub(crate) type Weakness = (String, &'static str);

/// Of the configuration's file.
pub(crate) fn of_file(config: &Loaded) -> Option<Weakness> {
    let file = config.file.as_deref()?;
    let holds =
        |url: &Url, url_file: &str| url_file.is_empty() && shown_url::has_secret(url.reveal());
    let has_secret = holds(&config.source.url, &config.source.url_file)
        || config
            .sinks
            .values()
            .any(|sink| holds(&sink.url, &sink.url_file));
    let mode = std::fs::metadata(file).ok()?.mode();
    (has_secret && mode & 0o077 != 0).then(|| {
        (
            format!(
                "{} holds a password and can be read by others (mode {:04o})",
                file.display(),
                mode & 0o7777
            ),
            "chmod 0600 it, or write the url into a file of mode 0600 and name that with url_file.",
        )
    })
}

/// Of the way to Kafka.
pub(crate) fn of_kafka(config: &Loaded) -> Option<Weakness> {
    let property = |name: &str| {
        let properties = config.kafka_files.properties.iter().rev();
        let mut found = properties.filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.reveal().to_lowercase())
    };
    let protocol = property("security.protocol").unwrap_or_default();
    if protocol == "sasl_plaintext" && !config.kafka.brokers.split(',').all(is_here) {
        return Some((
            "the password, and all events, go to the brokers in plain text".to_owned(),
            "Set security.protocol=SASL_SSL in [kafka] config_file, and ssl.ca.location.",
        ));
    }
    let is_off = |name: &str, off: &[&str]| {
        property(name).is_some_and(|value| off.contains(&value.as_str()))
    };
    let is_unverified = is_off("enable.ssl.certificate.verification", &["false", "0", "f"])
        || is_off("ssl.endpoint.identification.algorithm", &["none"]);
    (protocol.ends_with("ssl") && is_unverified).then(|| {
        (
            "the connection is encrypted, but to whomever answers: the brokers are not verified".to_owned(),
            "Remove enable.ssl.certificate.verification and ssl.endpoint.identification.algorithm from [kafka] config_file; name the authority with ssl.ca.location.",
        )
    })
}

/// Of the way to a target. Fails for an url that cannot be used.
pub(crate) async fn of_target(sink: &SinkSettings) -> Result<Option<Weakness>> {
    match &sink.kind {
        Kind::Postgres(_) => of_postgres(sink.url.reveal()),
        Kind::MongoHistory(_) | Kind::MongoView(_) => Ok(of_mongodb(sink.url.reveal()).await),
        Kind::Webhook(_) => Ok(of_webhook(sink.url.reveal())),
        Kind::Mail(settings) => Ok(of_mail(settings)),
        Kind::Statistics(_) => Ok(None),
    }
}

/// Of the way to who takes requests.
fn of_webhook(url: &str) -> Option<Weakness> {
    let rest = url.strip_prefix("http://")?;
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    (!is_here(host)).then(|| {
        (
            "the requests, all rows with them, go in plain text".to_owned(),
            "Write https:// in the url.",
        )
    })
}

/// Of the way to who takes mails.
fn of_mail(settings: &MailSettings) -> Option<Weakness> {
    let url = settings.smtp.reveal();
    let host = url.split_once("://").map_or("", |(_, host)| host);
    let is_plain = is_encrypted(url) == Some(false) && !is_here(host.trim_end_matches('/'));
    is_plain.then(|| {
        let what = match settings.user.is_empty() {
            true => "the mails go in plain text",
            false => "the password, and the mails, go in plain text",
        };
        (what.to_owned(), "Write starttls:// or smtps:// in smtp.")
    })
}

/// Of the way to a PostgreSQL server.
pub(crate) fn of_postgres(url: &str) -> Result<Option<Weakness>> {
    let (_, verification) = Verification::split(url)?;
    // What it names must be there.
    verification.connector()?;
    let shown = shown_url::shown(url);
    let hosts = match shown.split_once("://") {
        Some((_, rest)) => rest.split('/').next().unwrap_or_default().to_owned(),
        None => {
            let hosts = shown.split(' ').filter_map(|pair| pair.split_once('='));
            let hosts = hosts.filter(|(name, _)| name.starts_with("host"));
            hosts.map(|(_, host)| host).collect::<Vec<_>>().join(",")
        }
    };
    // Without a host it is this machine; %2Fvar%2Frun is a socket.
    let is_near = |host: &str| host.is_empty() || host.starts_with(['/', '%']) || is_here(host);
    if hosts.split(',').all(is_near) {
        return Ok(None);
    }
    let weakness = verification.weakness();
    Ok(weakness.map(|(what, remedy)| (what.to_owned(), remedy)))
}

/// One that looks its hosts up is told when it is connected.
async fn of_mongodb(url: &str) -> Option<Weakness> {
    if url.starts_with("mongodb+srv") {
        return None;
    }
    let options = ClientOptions::parse(url).await.ok()?;
    let is_near = |address: &ServerAddress| match address {
        ServerAddress::Tcp { host, .. } => is_here(host),
        _ => true,
    };
    if options.hosts.iter().all(is_near) {
        return None;
    }
    let remedy = "Add tls=true and tlsCAFile=FILE to the url, and no tlsInsecure or tlsAllowInvalidCertificates.";
    match &options.tls {
        Some(Tls::Enabled(tls)) => {
            let is_unverified = tls.allow_invalid_certificates == Some(true)
                || tls.allow_invalid_hostnames == Some(true);
            is_unverified.then(|| {
                let what = "the connection is encrypted, but to whomever answers: the server's certificate is not verified";
                (what.to_owned(), remedy)
            })
        }
        _ => Some((
            "the connection is in plain text, all rows with it".to_owned(),
            remedy,
        )),
    }
}

/// Whether a host, with or without a port, is this machine.
fn is_here(host: &str) -> bool {
    crate::http::access::same_site::is_loopback(host.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn weak_ways_are_told() {
        let weak = |url: &str| of_postgres(url).unwrap().is_some();
        assert!(weak("postgres://u:p@db1/d"));
        assert!(weak("host=127.0.0.1,db1 user=u"));
        assert!(!weak("postgres://u:p@localhost:5433/d"));
        assert!(!weak("host=/run/postgresql user=u"));
        assert!(!weak("postgres://u:p@db1/d?sslrootcert=system"));
        assert!(of_mongodb("mongodb://db1/").await.is_some());
        assert!(of_mongodb("mongodb://db1/?tls=true").await.is_none());
        let unverified = "mongodb://db1/?tls=true&tlsAllowInvalidCertificates=true";
        assert!(of_mongodb(unverified).await.is_some());
        assert!(of_mongodb("mongodb://localhost/").await.is_none());
        assert!(of_webhook("http://h:80/x").is_some());
        assert!(of_webhook("http://127.0.0.1:80/x").is_none());
        assert!(of_webhook("https://h/x").is_none());
        let mail = |smtp: &str| {
            let smtp = smtp.into();
            of_mail(&MailSettings {
                smtp,
                ..MailSettings::default()
            })
            .is_some()
        };
        assert!(mail("smtp://h:25"));
        assert!(!mail("smtp://localhost:25") && !mail("starttls://h"));
    }
}
