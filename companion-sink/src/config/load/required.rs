//! What a configuration cannot do without, and what cannot be meant.

use change::trouble::Trouble;

use crate::config::effect::{EffectSettings, MailSettings};
use crate::config::file::Config;
use crate::config::sink::{Kind, PostgresSettings, SinkSettings};
use crate::config::statistics::StatisticsSettings;
use crate::error::{Result, misconfigured};

/// Names what is required of sinks and missing, and what cannot be meant.
pub(crate) fn check_sinks(config: &Config, file_name: &str) -> Result<()> {
    if config.sinks.is_empty() {
        return Err(missing(file_name, "[sink.NAME]"));
    }
    for (name, sink) in &config.sinks {
        check_url(file_name, name, sink)?;
        if let Some(effect) = sink.kind.effect() {
            check_effect(file_name, name, effect)?;
        }
        match &sink.kind {
            Kind::MongoHistory(history) => check_database(file_name, name, &history.database)?,
            Kind::MongoView(view) => check_database(file_name, name, &view.database)?,
            Kind::Postgres(postgres) => check_tables(file_name, name, postgres)?,
            Kind::Statistics(statistics) => check_statistics(file_name, name, statistics)?,
            Kind::Mail(mail) => check_mail(file_name, name, mail)?,
            Kind::Webhook(_) => {}
        }
        if sink.topics.is_empty() {
            return Err(missing(file_name, &format!("sink.{name}.topics")));
        }
    }
    Ok(())
}

/// What has a server has its URL, and nothing else has one.
fn check_url(file_name: &str, name: &str, sink: &SinkSettings) -> Result<()> {
    let is_without = sink.url.is_empty() && sink.url_file.is_empty();
    if is_without && sink.has_url() {
        return Err(missing(file_name, &format!("sink.{name}.url")));
    }
    match &sink.kind {
        Kind::Mail(_) if !is_without => Err(misconfigured(
            format!("{file_name}: sink.{name}.url is no key of a mail sink"),
            "Set smtp to the server that takes the mails.",
        )),
        Kind::Statistics(_) if !is_without => Err(misconfigured(
            format!("{file_name}: sink.{name}.url: figures are kept in a folder"),
            "Remove it; store names the folder.",
        )),
        _ => Ok(()),
    }
}

/// MongoDB's own databases are nobody's target.
fn check_database(file_name: &str, name: &str, database: &str) -> Result<()> {
    if ["admin", "config", "local"].contains(&database) {
        return Err(misconfigured(
            format!("{file_name}: sink.{name}.database: {database} is MongoDB's own"),
            "Give the sink a database of its own.",
        ));
    }
    Ok(())
}

fn check_tables(file_name: &str, name: &str, postgres: &PostgresSettings) -> Result<()> {
    let is_table = |name: &&String| name.split('.').filter(|part| !part.is_empty()).count() != 2;
    let wrong = postgres
        .tables
        .iter()
        .flat_map(|(source, target)| [source, target]);
    match wrong.into_iter().find(is_table) {
        Some(wrong) => Err(misconfigured(
            format!("{file_name}: sink.{name}.tables: \"{wrong}\" is not schema.table"),
            "Write tables = {\"public.customer\" = \"crm.kunde\"}.",
        )),
        None => Ok(()),
    }
}

fn check_statistics(file_name: &str, name: &str, statistics: &StatisticsSettings) -> Result<()> {
    match statistics.mistake() {
        Some((key, why)) => Err(misconfigured(
            format!("{file_name}: sink.{name}.{key}: {why}"),
            "Change it there; sum(after.amount) as total gives a measure another name.",
        )),
        None => Ok(()),
    }
}

/// What a mail needs.
fn check_mail(file_name: &str, name: &str, mail: &MailSettings) -> Result<()> {
    let no_text = [&mail.body, &mail.body_file, &mail.html, &mail.html_file];
    for (key, is_missing) in [
        ("smtp", mail.smtp.is_empty()),
        ("from", mail.from.is_empty()),
        ("to", mail.to.is_empty()),
        ("subject", mail.subject.is_empty()),
        ("body", no_text.iter().all(|text| text.is_empty())),
    ] {
        if is_missing {
            return Err(missing(file_name, &format!("sink.{name}.{key}")));
        }
    }
    Ok(())
}

/// What every kind of effects needs.
fn check_effect(file_name: &str, name: &str, effect: &EffectSettings) -> Result<()> {
    let wrong = |key: &str, what: &str, hint: &str| {
        Err(misconfigured(
            format!("{file_name}: sink.{name}{key} {what}"),
            hint,
        ))
    };
    if !name.bytes().all(is_of_topic) {
        let hint = "Use A-Z a-z 0-9 . _ - in it: topics of its state are named after it.";
        return wrong("", "cannot be the name of a sink of this kind", hint);
    }
    if effect.on.is_empty() {
        return wrong(".on", "is empty", "Name operations: c, u, d or r.");
    }
    if effect.timeout.is_zero() || effect.retry.initial.is_zero() {
        let what = "has a timeout or a pause of 0";
        return wrong(
            "",
            what,
            "Set timeout and retry.initial to \"1ms\" or more.",
        );
    }
    if effect.retry.max < effect.retry.initial {
        let hint = "Raise max, or lower initial.";
        return wrong(".retry", "has a max below its initial", hint);
    }
    Ok(())
}

fn is_of_topic(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// A key that nothing works without.
pub(crate) fn missing(file_name: &str, key: &str) -> Trouble {
    misconfigured(
        format!("{file_name}: {key} is missing"),
        "Set it there; `companion-sink config --defaults` shows every key.",
    )
}
