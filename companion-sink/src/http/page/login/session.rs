//! Who is logged in. Sessions are in memory: they end with the process, and when its secrets change.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use openssl::sha::sha256;

use crate::error::Result;
use crate::http::access::{is_secret, random_secret};

/// How long somebody stays logged in.
const SESSION_MAX: Duration = Duration::from_secs(12 * 3600);
/// More than these at once, and the oldest one ends.
const SESSIONS_MAX: usize = 64;
/// How long a code for a login is good.
pub(crate) const CODE_MAX: Duration = Duration::from_secs(120);
const CODES_MAX: usize = 16;

/// Hashes: how long it takes to find one tells nothing about what is looked for.
type Digest = [u8; 32];

/// Those who are logged in, and codes for logging in once.
pub(crate) struct Sessions {
    cookie: String,
    state: Mutex<SessionsState>,
}

#[derive(Default)]
struct SessionsState {
    sessions: HashMap<Digest, Session>,
    codes: HashMap<Digest, Instant>,
}

struct Session {
    since: Instant,
    form_secret: String,
    person: Option<String>,
    notice: Option<String>,
}

/// Somebody who is logged in.
#[derive(Clone)]
pub(crate) struct LoggedIn {
    digest: Digest,
    /// What forms of this session have.
    pub(crate) form_secret: String,
    /// Who that is, if they said so.
    pub(crate) person: Option<String>,
}

impl Sessions {
    /// None yet. Browsers keep cookies by host and not by port: those of instances on one machine have names of their own.
    pub(crate) fn new(port: u16) -> Sessions {
        Sessions {
            cookie: format!("companion_sink_{port}"),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, SessionsState> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        state
            .sessions
            .retain(|_, session| now.duration_since(session.since) < SESSION_MAX);
        state
            .codes
            .retain(|_, made| now.duration_since(*made) < CODE_MAX);
        state
    }

    /// Logs somebody in; the cookie that says so.
    pub(crate) fn open(&self, person: Option<String>, is_secure: bool) -> Result<String> {
        let id = random_secret()?;
        let session = Session {
            since: Instant::now(),
            form_secret: random_secret()?,
            person,
            notice: None,
        };
        let mut state = self.state();
        if state.sessions.len() >= SESSIONS_MAX {
            let oldest = state.sessions.iter().min_by_key(|(_, known)| known.since);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                state.sessions.remove(&oldest);
            }
        }
        state.sessions.insert(sha256(id.as_bytes()), session);
        Ok(self.cookie(&id, SESSION_MAX.as_secs(), is_secure))
    }

    /// Who asks, if they are logged in.
    pub(crate) fn find(&self, headers: &HeaderMap) -> Option<LoggedIn> {
        let digest = sha256(self.id_in(headers)?.as_bytes());
        let state = self.state();
        let session = state.sessions.get(&digest)?;
        Some(LoggedIn {
            digest,
            form_secret: session.form_secret.clone(),
            person: session.person.clone(),
        })
    }

    /// Logs somebody out; the cookie that says so.
    pub(crate) fn close(&self, who: &LoggedIn) -> String {
        self.state().sessions.remove(&who.digest);
        self.cookie("", 0, false)
    }

    /// Keeps a notice for the next page.
    pub(crate) fn tell(&self, who: &LoggedIn, notice: String) {
        if let Some(session) = self.state().sessions.get_mut(&who.digest) {
            session.notice = Some(notice);
        }
    }

    /// The notice for this page.
    pub(crate) fn take_notice(&self, who: &LoggedIn) -> Option<String> {
        self.state().sessions.get_mut(&who.digest)?.notice.take()
    }

    /// A code that logs in once, within [`CODE_MAX`].
    pub(crate) fn make_code(&self) -> Result<String> {
        let code = random_secret()?;
        let mut state = self.state();
        if state.codes.len() >= CODES_MAX {
            let oldest = state.codes.iter().min_by_key(|(_, made)| **made);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                state.codes.remove(&oldest);
            }
        }
        state.codes.insert(sha256(code.as_bytes()), Instant::now());
        Ok(code)
    }

    /// Whether it is such a code; it is none any more.
    pub(crate) fn use_code(&self, code: &str) -> bool {
        self.state()
            .codes
            .remove(&sha256(code.as_bytes()))
            .is_some()
    }

    fn cookie(&self, value: &str, seconds: u64, is_secure: bool) -> String {
        let secure = if is_secure { "; Secure" } else { "" };
        format!(
            "{}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}",
            self.cookie
        )
    }

    fn id_in<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let cookies = headers.get_all(header::COOKIE).iter();
        let mut cookies = cookies.filter_map(|value| value.to_str().ok());
        cookies.find_map(|cookies| {
            let mut pairs = cookies
                .split(';')
                .filter_map(|pair| pair.trim().split_once('='));
            pairs.find_map(|(name, value)| (name == self.cookie).then_some(value))
        })
    }
}

impl LoggedIn {
    /// Whether a form is one of this session.
    pub(crate) fn made(&self, secret: &str) -> bool {
        is_secret(secret, &self.form_secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(cookie: &str) -> HeaderMap {
        let value = cookie.split(';').next().unwrap();
        let cookies = format!("other=1; {value}");
        [(header::COOKIE, cookies.parse().unwrap())]
            .into_iter()
            .collect()
    }

    #[test]
    fn a_session_lasts_until_logout() {
        let sessions = Sessions::new(8480);
        let cookie = sessions.open(Some("ann".into()), false).unwrap();
        assert!(cookie.ends_with("; HttpOnly; SameSite=Strict"), "{cookie}");
        assert!(sessions.open(None, true).unwrap().ends_with("; Secure"));
        let who = sessions.find(&asking(&cookie)).unwrap();
        assert_eq!(who.person.as_deref(), Some("ann"));
        assert!(who.made(&who.form_secret) && !who.made("") && !who.made("x"));
        sessions.tell(&who, "done".into());
        assert_eq!(sessions.take_notice(&who).as_deref(), Some("done"));
        assert_eq!(sessions.take_notice(&who), None);
        sessions.close(&who);
        assert!(sessions.find(&asking(&cookie)).is_none());
        assert!(sessions.find(&HeaderMap::new()).is_none());
        // Another instance of this machine has its own.
        let other = Sessions::new(8481).open(None, false).unwrap();
        assert!(sessions.find(&asking(&other)).is_none());
    }

    #[test]
    fn sessions_and_codes_are_limited() {
        let sessions = Sessions::new(1);
        let first = sessions.open(None, false).unwrap();
        for _ in 0..SESSIONS_MAX {
            sessions.open(None, false).unwrap();
        }
        assert!(sessions.find(&asking(&first)).is_none());
        let code = sessions.make_code().unwrap();
        assert!(sessions.use_code(&code) && !sessions.use_code(&code));
        assert!(!sessions.use_code(""));
    }
}
