//! Tokens for SASL/OAUTHBEARER. librdkafka asks for one when a client starts and whenever four fifths of the last one's
//! life are over.
//!
//! `sasl.oauthbearer.config` says where from: `token_file=PATH` names a file that somebody else renews;
//! `principal=NAME lifeSeconds=N` are librdkafka's own words for an unsigned token, which brokers take in tests only.
//! These are made here too: librdkafka makes the first one by itself, and no other for clients of the crate `rdkafka`.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use serde_json::{Value, json};

use crate::files::secret::{self, Refused};

/// As librdkafka has it.
const DEFAULT_LIFE_S: i64 = 3600;

/// A token by `sasl.oauthbearer.config`; an unsigned one only where that is asked for.
///
/// # Errors
/// What is wrong, without anything of a token.
pub(super) fn make(config: &str, unsigned: bool) -> Result<OAuthToken, String> {
    match config.trim().strip_prefix("token_file=") {
        Some(path) => from_file(path),
        None if unsigned => without_signature(config),
        None => Err("sasl.oauthbearer.config is not token_file=PATH".to_owned()),
    }
}

fn from_file(path: &str) -> Result<OAuthToken, String> {
    let content = secret::read(path).map_err(|refused| match refused {
        Refused::Unreadable(error) => format!("token file \"{path}\" cannot be read: {error}"),
        Refused::Exposed => {
            format!("token file \"{path}\" has group or world access, or another owner")
        }
    })?;
    let not_a_token = || format!("token file \"{path}\" does not hold a JSON web token with exp");
    let token = String::from_utf8(content).map_err(|_| not_a_token())?;
    let token = token.trim();
    // librdkafka would show the token that it refuses.
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(not_a_token());
    }
    let claims = token
        .split('.')
        .nth(1)
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
        .and_then(|claims| serde_json::from_slice::<Value>(&claims).ok());
    let expires_s = claims.as_ref().and_then(|claims| claims["exp"].as_f64());
    match (claims, expires_s) {
        (_, Some(expires_s)) if expires_s <= now_s() as f64 => Err(format!(
            "token file \"{path}\" holds a token that has expired"
        )),
        (Some(claims), Some(expires_s)) => Ok(OAuthToken {
            token: token.to_owned(),
            principal_name: claims["sub"].as_str().unwrap_or_default().to_owned(),
            lifetime_ms: (expires_s * 1000.0) as i64,
        }),
        _ => Err(not_a_token()),
    }
}

fn without_signature(config: &str) -> Result<OAuthToken, String> {
    let word = |name: &str| {
        config
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .find(|(word, _)| *word == name)
            .map(|(_, value)| value)
    };
    let principal = word("principal").ok_or("sasl.oauthbearer.config has no principal=NAME")?;
    let life_s = match word("lifeSeconds") {
        None => DEFAULT_LIFE_S,
        Some(seconds) => seconds
            .parse()
            .map_err(|_| "lifeSeconds in sasl.oauthbearer.config is not a number")?,
    };
    let now_s = now_s();
    let expires_s = now_s.saturating_add(life_s);
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    Ok(OAuthToken {
        token: format!(
            "{}.{}.",
            part(json!({"alg": "none"})),
            part(json!({"sub": principal, "iat": now_s, "exp": expires_s}))
        ),
        principal_name: principal.to_owned(),
        lifetime_ms: expires_s.saturating_mul(1000),
    })
}

fn now_s() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}
