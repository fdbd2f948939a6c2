//! A connection string as it may be shown: where it leads, and nothing of who comes and how. What has another form than
//! expected is not shown at all, for it may be a piece of a password.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::sink::postgres::verification::pairs;

const HIDDEN: &str = "***";

/// A connection string. Printed, it says where it leads.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Url(String);

impl Url {
    /// The connection string itself, with what is secret in it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Url {
    fn from(url: &str) -> Self {
        Url(url.to_owned())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Scheme, hosts, ports and database.
pub(crate) fn shown(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    match url.split_once("://") {
        Some((scheme, rest)) => shown_url(scheme, rest),
        None => shown_pairs(url),
    }
}

/// Whether it holds something that others must not see: anything but what [`shown`] shows, and names of users.
pub(crate) fn has_secret(url: &str) -> bool {
    match url.split_once("://") {
        Some((_, rest)) => {
            let credentials = rest
                .rsplit_once('@')
                .map_or("", |(credentials, _)| credentials);
            let lower = rest.to_lowercase();
            credentials.contains(':') || lower.contains("password=") || lower.contains("token")
        }
        None => match pairs(url) {
            Some(pairs) => pairs.iter().any(|(name, _)| name.contains("password")),
            None => !url.is_empty(),
        },
    }
}

fn shown_url(scheme: &str, rest: &str) -> String {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || c == '+';
    if !scheme.chars().all(is_scheme) {
        return HIDDEN.to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let hosts = authority
        .rsplit_once('@')
        .map_or(authority, |(_, hosts)| hosts);
    // A password that is not encoded may hold all of these characters: then nobody knows where it ends.
    if path.contains('@') || !are_hosts(hosts) {
        return format!("{scheme}://{HIDDEN}");
    }
    let database = path.strip_prefix('/').unwrap_or_default();
    let database = database.split(['?', '#']).next().unwrap_or_default();
    match database {
        "" => format!("{scheme}://{hosts}"),
        database if is_name(database) => format!("{scheme}://{hosts}/{database}"),
        _ => format!("{scheme}://{hosts}/{HIDDEN}"),
    }
}

fn shown_pairs(text: &str) -> String {
    let Some(pairs) = pairs(text) else {
        return HIDDEN.to_owned();
    };
    let mut shown = Vec::new();
    for (name, value) in pairs {
        let is_shown = match name.as_str() {
            "host" | "hostaddr" | "port" => are_hosts(&value) || value.starts_with('/'),
            "dbname" => is_name(&value),
            _ => continue,
        };
        shown.push(format!("{name}={}", if is_shown { &value } else { HIDDEN }));
    }
    match shown.is_empty() {
        true => HIDDEN.to_owned(),
        false => shown.join(" "),
    }
}

/// Hosts with their ports, where there are ports.
fn are_hosts(text: &str) -> bool {
    text.split(',').all(|host| {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port),
            _ => (host, ""),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '%');
        let is_address = name.starts_with('[') && name.ends_with(']');
        let is_address = is_address && name.chars().all(|c| is_name(c) || "[:]".contains(c));
        port.bytes().all(|byte| byte.is_ascii_digit()) && (is_address || name.chars().all(is_name))
    })
}

fn is_name(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '$' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_shows_a_secret() {
        for (url, wanted) in [
            ("postgres://u:hunter2@h:5432/d", "postgres://h:5432/d"),
            ("postgres://u:pa/hunter2@h/d", "postgres://***"),
            ("postgres://u:pa?hunter2@h/d", "postgres://***"),
            ("postgres://u:pa#hunter2@h/d", "postgres://***"),
            ("postgres://u:pa@hunter2@h/d", "postgres://h/d"),
            ("postgres://u:hunter2", "postgres://***"),
            (
                "postgres://h/d?user=u&password=hunter2&x=1",
                "postgres://h/d",
            ),
            ("postgres://h/d?p%61ssword=hunter2", "postgres://h/d"),
            (
                "postgresql://[::1]:5432,h2/d",
                "postgresql://[::1]:5432,h2/d",
            ),
            (
                "mongodb+srv://u:hunter2@c.example.org/d?w=1",
                "mongodb+srv://c.example.org/d",
            ),
            (
                "mongodb://h:1,i:2/?tlsCertificateKeyFilePassword=hunter2",
                "mongodb://h:1,i:2",
            ),
            (
                "mongodb://h/?tlsCertificateKeyFilePassword=hunter2@x",
                "mongodb://***",
            ),
            (
                "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:hunter2",
                "mongodb://h",
            ),
            (
                "host=h port=1 password=hunter2 dbname=d",
                "host=h port=1 dbname=d",
            ),
            ("host=h password = hunter2", "host=h"),
            ("host=h password='a hunter2' user=u", "host=h"),
            ("host=h password=a\\ hunter2", "host=h"),
            ("host=h password='hunter2", "***"),
            ("hunter2", "***"),
            ("", ""),
        ] {
            let shown = shown(url);
            assert_eq!(shown, wanted, "{url}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn secrets_are_seen() {
        for url in [
            "postgres://u:p@h/d",
            "postgres://h/d?password=p",
            "mongodb://h/?tlsCertificateKeyFilePassword=p",
            "host=h password = p",
            "host=h password='p",
        ] {
            assert!(has_secret(url), "{url}");
        }
        for url in ["", "postgres://u@h/d", "mongodb://h", "host=h user=u"] {
            assert!(!has_secret(url), "{url}");
        }
    }
}
