//! Listeners with TLS that a Kafka node of the bed has beside its PLAINTEXT one.

use std::path::Path;

use crate::certificates::Authority;
use crate::port;
use crate::token_issuer::{AUDIENCE, TokenIssuer};

/// The password of the users that [`SecureListeners`] know by PLAIN: their name, and this behind it.
const PASSWORD_SUFFIX: &str = "-s3cret";

/// The package of Kafka's classes for SASL.
const PACKAGE: &str = "org.apache.kafka.common.security";

/// Three listeners on localhost, all with TLS and one certificate:
///
/// | listener | takes |
/// |---|---|
/// | [`sasl`](SecureListeners::sasl) | PLAIN (the users `alice` and `bob`), SCRAM-SHA-512 (users made later), OAUTHBEARER with unsigned tokens |
/// | [`tokens`](SecureListeners::tokens) | OAUTHBEARER with the tokens of an issuer only |
/// | [`certificates`](SecureListeners::certificates) | clients with a certificate of the authority only |
#[derive(Debug)]
pub struct SecureListeners {
    /// Who issued the broker's certificate, and whom the broker trusts.
    pub authority: Authority,
    /// Whose tokens the broker trusts.
    pub issuer: TokenIssuer,
    sasl_port: u16,
    tokens_port: u16,
    certificates_port: u16,
}

impl SecureListeners {
    /// Listeners on free ports.
    #[allow(clippy::new_without_default)] // other keys and ports each time are no default
    pub fn new() -> SecureListeners {
        SecureListeners {
            authority: Authority::new("authority of the brokers"),
            issuer: TokenIssuer::new(),
            sasl_port: port::free(),
            tokens_port: port::free(),
            certificates_port: port::free(),
        }
    }

    /// The bootstrap server with SASL. The broker's certificate is for `localhost`, not for 127.0.0.1.
    pub fn sasl(&self) -> String {
        format!("localhost:{}", self.sasl_port)
    }

    /// The bootstrap server that wants signed tokens.
    pub fn tokens(&self) -> String {
        format!("localhost:{}", self.tokens_port)
    }

    /// The bootstrap server that wants a client's certificate.
    pub fn certificates(&self) -> String {
        format!("localhost:{}", self.certificates_port)
    }

    /// The password of a user of PLAIN.
    pub fn password(user: &str) -> String {
        format!("{user}{PASSWORD_SUFFIX}")
    }

    /// Writes what the broker reads into its folder, before it starts.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn write(&self, folder: &Path) {
        let broker = self.authority.issue("broker", &["localhost"]);
        std::fs::create_dir_all(folder).expect("the broker's folder");
        for (name, content) in [
            ("authority.pem", self.authority.pem()),
            (
                "broker.pem",
                broker.key_pem() + broker.certificate_pem().as_str(),
            ),
            ("jwks.json", self.issuer.key_set()),
        ] {
            std::fs::write(folder.join(name), content)
                .unwrap_or_else(|e| panic!("cannot write {name}: {e}"));
        }
    }

    /// What `server.properties` needs. `@folder@` and the like are put in as in the bed's own properties.
    pub fn settings(&self) -> Vec<(String, String)> {
        [self.places(), tls(), sasl(), tokens()]
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Where the broker listens, and what each listener speaks.
    fn places(&self) -> Vec<(&'static str, String)> {
        let listeners = |host: &str| {
            format!(
                "SASL://{host}:{},TOKENS://{host}:{},CERTIFICATES://{host}:{}",
                self.sasl_port, self.tokens_port, self.certificates_port
            )
        };
        let plaintext = "PLAINTEXT://127.0.0.1:@port@";
        vec![
            (
                "listeners",
                format!(
                    "{plaintext},CONTROLLER://127.0.0.1:@controller_port@,{}",
                    listeners("127.0.0.1")
                ),
            ),
            (
                "advertised.listeners",
                format!("{plaintext},{}", listeners("localhost")),
            ),
            (
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL,TOKENS:SASL_SSL,CERTIFICATES:SSL".to_owned(),
            ),
        ]
    }
}

/// The certificates: the broker's own, and who has to show one.
fn tls() -> Vec<(&'static str, String)> {
    vec![
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.location", "@folder@/broker.pem".to_owned()),
        ("ssl.truststore.type", "PEM".to_owned()),
        (
            "ssl.truststore.location",
            "@folder@/authority.pem".to_owned(),
        ),
        (
            "listener.name.certificates.ssl.client.auth",
            "required".to_owned(),
        ),
    ]
}

/// The listener that takes passwords and unsigned tokens.
fn sasl() -> Vec<(&'static str, String)> {
    let users: String = ["alice", "bob"]
        .iter()
        .map(|user| format!(" user_{user}=\"{}\"", SecureListeners::password(user)))
        .collect();
    vec![
        (
            "listener.name.sasl.sasl.enabled.mechanisms",
            "PLAIN,SCRAM-SHA-512,OAUTHBEARER".to_owned(),
        ),
        (
            "listener.name.sasl.plain.sasl.jaas.config",
            format!("{PACKAGE}.plain.PlainLoginModule required{users};"),
        ),
        (
            "listener.name.sasl.scram-sha-512.sasl.jaas.config",
            format!("{PACKAGE}.scram.ScramLoginModule required;"),
        ),
        (
            "listener.name.sasl.oauthbearer.sasl.jaas.config",
            format!("{PACKAGE}.oauthbearer.OAuthBearerLoginModule required;"),
        ),
    ]
}

/// The listener that takes the issuer's tokens only.
fn tokens() -> Vec<(&'static str, String)> {
    vec![
        (
            "listener.name.tokens.sasl.enabled.mechanisms",
            "OAUTHBEARER".to_owned(),
        ),
        (
            "listener.name.tokens.oauthbearer.sasl.jaas.config",
            format!("{PACKAGE}.oauthbearer.OAuthBearerLoginModule required;"),
        ),
        (
            "listener.name.tokens.oauthbearer.sasl.server.callback.handler.class",
            format!("{PACKAGE}.oauthbearer.OAuthBearerValidatorCallbackHandler"),
        ),
        (
            "listener.name.tokens.oauthbearer.sasl.oauthbearer.jwks.endpoint.url",
            "file://@folder@/jwks.json".to_owned(),
        ),
        (
            "listener.name.tokens.oauthbearer.sasl.oauthbearer.expected.audience",
            AUDIENCE.to_owned(),
        ),
    ]
}
