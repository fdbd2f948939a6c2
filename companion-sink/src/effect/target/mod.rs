//! Where the effects of a sink go.

mod connection;
pub(crate) mod mail;
pub(crate) mod outcome;
mod signature;
mod template;
mod webhook;

use change::trouble::Trouble;

use crate::config::{EffectSettings, Kind, SinkSettings};
use crate::effect::state::unfinished::Unfinished;
use crate::effect::target::mail::Mail;
use crate::effect::target::outcome::Outcome;
use crate::effect::target::webhook::Webhook;
use crate::error::{Code, Result};

/// Where effects go.
pub(crate) enum Target {
    Webhook(Box<Webhook>),
    Mail(Box<Mail>),
}

impl Target {
    /// Reads what the settings of a sink name, secrets and templates among it; `url` is its URL. Connects nowhere. None for a
    /// sink of another kind.
    pub(crate) fn open(kind: &Kind, url: &str) -> Result<Option<Target>> {
        Ok(match kind {
            Kind::Webhook(settings) => {
                Some(Target::Webhook(Box::new(Webhook::new(settings, url)?)))
            }
            Kind::Mail(settings) => Some(Target::Mail(Box::new(Mail::new(settings)?))),
            Kind::MongoHistory(_)
            | Kind::MongoView(_)
            | Kind::Postgres(_)
            | Kind::Statistics(_) => None,
        })
    }

    /// Connects, to see whether somebody answers.
    pub(crate) async fn try_connect(&self, settings: &EffectSettings) -> Result<()> {
        let tried = async {
            match self {
                Target::Webhook(webhook) => webhook.try_connect().await,
                Target::Mail(mail) => mail.try_connect().await,
            }
        };
        let tried = tokio::time::timeout(settings.timeout, tried).await;
        let tried = tried.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        tried.map_err(|why| {
            let name = self.name();
            Trouble::new(
                Code::Unreachable,
                format!("{name}: {why}"),
                "Start the server, or correct where it is, who logs in, and how (smtp, starttls, smtps; http, https); events wait for it.",
            )
        })
    }

    /// Tries to have the effect of an event.
    pub(crate) async fn attempt(&self, event: &Unfinished) -> Outcome {
        match self {
            Target::Webhook(webhook) => webhook.attempt(event).await,
            Target::Mail(mail) => mail.attempt(event).await,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Target::Webhook(_) => "webhook",
            Target::Mail(_) => "smtp",
        }
    }
}

/// Reads all that a sink names; fails for what cannot be meant.
pub(crate) fn check(sink: &SinkSettings) -> Result<()> {
    match &sink.kind {
        Kind::Webhook(settings) => Webhook::new(settings, sink.url.reveal()).map(drop),
        Kind::Mail(settings) => mail::check(settings),
        Kind::MongoHistory(_) | Kind::MongoView(_) | Kind::Postgres(_) | Kind::Statistics(_) => {
            Ok(())
        }
    }
}
