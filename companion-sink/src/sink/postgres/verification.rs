//! Whether a server is who it says, by the same parameters as libpq: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`. The driver
//! knows no more than whether to encrypt, and leaves the rest to its TLS connector.

use std::path::PathBuf;

use change::trouble::Trouble;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::store::X509StoreBuilder;
use postgres_openssl::MakeTlsConnector;

use crate::error::{Result, misconfigured};

/// What a connection string says of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verification {
    mode: Option<String>,
    root_certificate: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

/// Whose certificates are trusted.
#[derive(Debug, PartialEq, Eq)]
enum Trust {
    /// Anybody's.
    Anybody,
    /// Those of the authorities in a file, and of no others.
    File(PathBuf),
    /// Those that the system trusts.
    System,
}

impl Verification {
    /// Takes the parameters out of a connection string, URL or `key=value`: what is left is the driver's.
    pub(crate) fn split(url: &str) -> Result<(String, Self)> {
        let mut verification = Verification::default();
        let left = match url.split_once("://") {
            Some(_) => verification.take_from_url(url),
            None => verification.take_from_pairs(url),
        };
        let left = left.ok_or_else(|| wrong("it is not a connection string"))?;
        verification.check()?;
        Ok((left, verification))
    }

    fn take_from_url(&mut self, url: &str) -> Option<String> {
        let Some((base, query)) = url.split_once('?') else {
            return Some(with_mode(url.to_owned(), '?', self.driver_mode()));
        };
        let mut kept = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=')?;
            if !self.take(name, &percent_decoded(value)?) {
                kept.push(parameter);
            }
        }
        let left = format!("{base}?{}", kept.join("&"));
        let separator = if kept.is_empty() { '\0' } else { '&' };
        Some(with_mode(left, separator, self.driver_mode()))
    }

    fn take_from_pairs(&mut self, text: &str) -> Option<String> {
        let mut kept = Vec::new();
        for (name, value) in pairs(text)? {
            if !self.take(&name, &value) {
                let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
                kept.push(format!("{name}='{quoted}'"));
            }
        }
        Some(with_mode(kept.join(" "), ' ', self.driver_mode()))
    }

    /// Takes a parameter if it is about TLS.
    fn take(&mut self, name: &str, value: &str) -> bool {
        let place = match name {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.root_certificate,
            "sslcert" => &mut self.certificate,
            "sslkey" => &mut self.key,
            _ => return false,
        };
        *place = Some(value.to_owned()).filter(|value| !value.is_empty());
        true
    }

    fn check(&self) -> Result<()> {
        let mode = self.mode.as_deref();
        let known = [
            "disable",
            "allow",
            "prefer",
            "require",
            "verify-ca",
            "verify-full",
        ];
        if mode.is_some_and(|mode| !known.contains(&mode)) {
            return Err(wrong("its sslmode is none of libpq's"));
        }
        // As libpq: the system trusts many, so that the name must be looked at.
        if self.is_system() && mode.is_some_and(|mode| mode != "verify-full") {
            return Err(wrong("sslrootcert=system wants sslmode=verify-full"));
        }
        self.trust().map(drop)
    }

    fn is_system(&self) -> bool {
        self.root_certificate.as_deref() == Some("system")
    }

    /// The mode in force.
    pub(crate) fn mode(&self) -> &str {
        match &self.mode {
            Some(mode) => mode,
            None if self.is_system() => "verify-full",
            None => "prefer",
        }
    }

    /// What the driver needs to know of it.
    fn driver_mode(&self) -> &'static str {
        match self.mode() {
            "disable" => "disable",
            "allow" | "prefer" => "prefer",
            _ => "require",
        }
    }

    fn trust(&self) -> Result<Trust> {
        if self.is_system() {
            return Ok(Trust::System);
        }
        let named = self.root_certificate.as_ref().map(PathBuf::from);
        // libpq looks there too.
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let usual = home.map(|home| home.join(".postgresql/root.crt"));
        let file = named.clone().or(usual).filter(|file| file.exists());
        match file {
            Some(file) => Ok(Trust::File(file)),
            None if self.mode().starts_with("verify-") || named.is_some() => Err(wrong(
                "the file of sslrootcert is not there, and without it nobody can be verified",
            )),
            None => Ok(Trust::Anybody),
        }
    }

    /// What a person should know of it, who runs against a server on another machine.
    pub(crate) fn weakness(&self) -> Option<(&'static str, &'static str)> {
        let is_anybody = matches!(self.trust(), Ok(Trust::Anybody));
        match self.mode() {
            "disable" | "allow" | "prefer" => Some((
                "the connection may be in plain text, the password and all rows with it",
                "Add sslmode=verify-full and sslrootcert=FILE (or sslrootcert=system) to the url.",
            )),
            "require" if is_anybody => Some((
                "the connection is encrypted, but to whomever answers: the server's certificate is not verified",
                "Add sslmode=verify-full and sslrootcert=FILE (or sslrootcert=system) to the url.",
            )),
            _ => None,
        }
    }

    /// The connector that does so.
    pub(crate) fn connector(&self) -> Result<MakeTlsConnector> {
        let failed = |error: openssl::error::ErrorStack| {
            misconfigured(
                format!("postgres: TLS: {error}"),
                "Correct sslrootcert, sslcert and sslkey in the sink's url.",
            )
        };
        let mut builder = SslConnector::builder(SslMethod::tls()).map_err(failed)?;
        let trust = self.trust()?;
        match &trust {
            Trust::Anybody => builder.set_verify(SslVerifyMode::NONE),
            Trust::System => {}
            Trust::File(file) => {
                // Without the system's authorities, which are there by default.
                let store = X509StoreBuilder::new().map_err(failed)?;
                builder.set_cert_store(store.build());
                builder.set_ca_file(file).map_err(failed)?;
            }
        }
        if let Some(certificate) = &self.certificate {
            let chain = builder.set_certificate_chain_file(certificate);
            chain.map_err(failed)?;
            let key = self.key.as_ref().unwrap_or(certificate);
            let key = builder.set_private_key_file(key, SslFiletype::PEM);
            key.map_err(failed)?;
        }
        let mut connector = MakeTlsConnector::new(builder.build());
        let verify_host = self.mode() == "verify-full";
        connector.set_callback(move |config, _| {
            config.set_verify_hostname(verify_host);
            Ok(())
        });
        Ok(connector)
    }
}

fn wrong(why: &str) -> Trouble {
    misconfigured(
        format!("postgres: the url cannot be used: {why}"),
        "Write postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=FILE, as libpq has it.",
    )
}

fn with_mode(text: String, separator: char, mode: &str) -> String {
    match separator {
        '\0' => format!("{text}sslmode={mode}"),
        separator => format!("{text}{separator}sslmode={mode}"),
    }
}

/// None where something is no encoding.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok()
}

/// The pairs of a `key=value` string as libpq reads it: spaces around `=`, quotes, backslashes. None where it is none.
pub(crate) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Some(pairs);
        }
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        chars.next_if_eq(&'=')?;
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        let is_quoted = chars.next_if_eq(&'\'').is_some();
        loop {
            match chars.next() {
                Some('\'') if is_quoted => break,
                Some('\\') => value.push(chars.next()?),
                Some(c) if !is_quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if is_quoted => return None,
                None => break,
            }
        }
        pairs.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(url: &str) -> (String, Verification) {
        Verification::split(url).unwrap()
    }

    #[test]
    fn libpqs_verification_is_understood() {
        // Any file that is there.
        let file = std::env::current_exe().unwrap();
        let file = file.to_str().unwrap();
        let (url, verification) = split(&format!(
            "postgres://h/d?sslmode=verify-full&sslrootcert={file}&options=x"
        ));
        assert_eq!(url, "postgres://h/d?options=x&sslmode=require");
        assert_eq!(verification.mode(), "verify-full");
        assert_eq!(verification.trust().unwrap(), Trust::File(file.into()));
        // With a root certificate, `require` verifies; so do the others, where they encrypt.
        for mode in ["require", "prefer"] {
            let encoded = file.replace('/', "%2F");
            let (_, verification) = split(&format!(
                "postgres://h/d?sslmode={mode}&sslrootcert={encoded}"
            ));
            assert_eq!(verification.trust().unwrap(), Trust::File(file.into()));
        }
        let (pairs, verification) = split(&format!(
            "host = h sslmode='verify-ca' sslrootcert={file} password = 'a b\\'c'"
        ));
        assert_eq!(pairs, "host='h' password='a b\\'c' sslmode=require");
        assert_eq!(verification.mode(), "verify-ca");
        let (url, verification) = split("postgres://h/d?sslrootcert=system");
        assert_eq!(url, "postgres://h/d?sslmode=require");
        assert_eq!(verification.mode(), "verify-full");
        assert_eq!(verification.trust().unwrap(), Trust::System);
        assert_eq!(split("postgres://h/d").0, "postgres://h/d?sslmode=prefer");
        for wrong in [
            "postgres://h/d?sslmode=verify-full&sslrootcert=/there/is/none",
            "postgres://h/d?sslmode=require&sslrootcert=/there/is/none",
            "postgres://h/d?sslmode=require&sslrootcert=system",
            "postgres://h/d?sslmode=verify_full",
            "host=h password='a",
        ] {
            let error = Verification::split(wrong).unwrap_err();
            assert!(!error.to_string().contains("there/is"), "{error}");
        }
    }

    #[test]
    fn weak_connections_are_told() {
        let weakness = |url: &str| split(url).1.weakness().map(|(what, _)| what);
        assert!(weakness("postgres://h/d").is_some_and(|what| what.contains("plain text")));
        assert!(weakness("postgres://h/d?sslrootcert=system").is_none());
    }
}
