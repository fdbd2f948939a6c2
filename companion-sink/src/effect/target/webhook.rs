//! A request for each event, as Standard Webhooks has it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};

use crate::config::WebhookSettings;
use crate::effect::state::unfinished::Unfinished;
use crate::effect::target::connection::{Connections, WebhookUrl};
use crate::effect::target::outcome::Outcome;
use crate::effect::target::signature::SigningKey;
use crate::effect::target::template::{Makes, Template, TemplateSubject};
use crate::error::{Result, misconfigured};
use crate::rejected::failure::Failure;
use crate::timestamp::now_us;

/// Sends requests.
pub(crate) struct Webhook {
    url: WebhookUrl,
    connections: Connections,
    signing_key: Option<SigningKey>,
    body: Option<Template>,
    content_type: HeaderValue,
}

impl Webhook {
    /// Reads what the settings name. Connects nowhere.
    pub(crate) fn new(settings: &WebhookSettings, url: &str) -> Result<Webhook> {
        let url = WebhookUrl::parse(url)?;
        let content_type = HeaderValue::from_str(&settings.content_type.0).map_err(|_| {
            misconfigured(
                "content_type: it is no value of a header",
                "Write it like \"application/json\".",
            )
        })?;
        let secret_file = settings.secret_file.as_str();
        let signing_key = (!secret_file.is_empty()).then(|| SigningKey::read(secret_file));
        let idle_max = settings.effect.concurrency as usize;
        Ok(Webhook {
            connections: Connections::new(&url, idle_max)?,
            url,
            signing_key: signing_key.transpose()?,
            body: Template::read("body", &settings.body, &settings.body_file, Makes::Text)?,
            content_type,
        })
    }

    /// Connects, to see whether somebody answers; why not, in words.
    pub(crate) async fn try_connect(&self) -> std::result::Result<(), String> {
        self.connections.try_connect().await
    }

    /// Sends the request of an event.
    pub(crate) async fn attempt(&self, event: &Unfinished) -> Outcome {
        let body = match self.body_of(event) {
            Ok(body) => body,
            Err(failure) => return Outcome::Refused(failure),
        };
        let timestamp = now_us() / 1_000_000;
        let signature = self
            .signing_key
            .as_ref()
            .map(|key| key.sign(event.id(), timestamp, &body));
        let signature = match signature.transpose() {
            Ok(signature) => signature,
            Err(error) => return Outcome::again(error.message),
        };
        let request = || {
            let mut request = Request::post(&self.url.path)
                .header(HOST, &self.url.authority)
                .header(
                    USER_AGENT,
                    concat!("companion-sink/", env!("CARGO_PKG_VERSION")),
                )
                .header(CONTENT_TYPE, &self.content_type)
                .header("webhook-id", event.id())
                .header("webhook-timestamp", timestamp);
            if let Some(signature) = &signature {
                request = request.header("webhook-signature", signature);
            }
            request
                .body(Full::new(body.clone()))
                .map_err(|error| error.to_string())
        };
        match self.connections.send(request).await {
            Ok(answered) => outcome_of(answered.status, &answered.headers),
            Err(why) => Outcome::again(why),
        }
    }

    fn body_of(&self, event: &Unfinished) -> std::result::Result<Bytes, Failure> {
        let Some(template) = &self.body else {
            let value = event.record.value().unwrap_or_default();
            return Ok(Bytes::copy_from_slice(value));
        };
        let subject = TemplateSubject::read(&event.record)?;
        Ok(Bytes::from(template.render(&subject)?))
    }
}

/// What an answer means. Its body is nobody's to tell: it may quote what was sent.
fn outcome_of(status: StatusCode, headers: &HeaderMap) -> Outcome {
    const TOO_EARLY: u16 = 425;
    let number = status.as_u16();
    let is_for_later = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    ) || number == TOO_EARLY;
    if status.is_success() {
        return Outcome::Done;
    }
    if status.is_redirection() {
        let why = format!("the receiver answers {number}, and redirects are not followed");
        return Outcome::Refused(Failure::effect_refused(why));
    }
    if status.is_client_error() && !is_for_later {
        let why = format!("the receiver answers {number}");
        return Outcome::Refused(Failure::effect_refused(why));
    }
    Outcome::Again {
        why: format!("the receiver answers {number}"),
        not_before: retry_after(headers),
    }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    at.duration_since(SystemTime::now()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_mean_what_they_say() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        let outcome = |number: u16| outcome_of(StatusCode::from_u16(number).unwrap(), &headers);
        for done in [200, 202, 204] {
            assert!(matches!(outcome(done), Outcome::Done), "{done}");
        }
        for refused in [301, 307, 400, 401, 404, 410, 422] {
            assert!(matches!(outcome(refused), Outcome::Refused(_)), "{refused}");
        }
        for again in [408, 425, 429, 500, 502, 503, 599] {
            let Outcome::Again { not_before, .. } = outcome(again) else {
                panic!("{again}");
            };
            assert_eq!(not_before, Some(Duration::from_secs(7)));
        }
    }

    #[test]
    fn the_receiver_can_name_a_time() {
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers)
        };
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        let soon = SystemTime::now() + Duration::from_secs(100);
        let soon = after(&httpdate::fmt_http_date(soon)).unwrap();
        assert!((90..=100).contains(&soon.as_secs()), "{soon:?}");
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(after("soon"), None);
    }
}
