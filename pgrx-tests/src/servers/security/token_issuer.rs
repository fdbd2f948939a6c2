//! Signed tokens for OAUTHBEARER, and the key set by which a broker checks them.

use std::time::{SystemTime, UNIX_EPOCH};

use openssl::base64::encode_block;
use openssl::bn::BigNumContext;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::nid::Nid;
use openssl::pkey::Private;
use openssl::sha::sha256;
use serde_json::{Value, json};

/// Issues JSON web tokens that it signs with ES256.
#[derive(Debug)]
pub struct TokenIssuer {
    key: EcKey<Private>,
}

/// What a token must name as its audience.
pub const AUDIENCE: &str = "kafka";

impl TokenIssuer {
    /// An issuer with a new key.
    #[allow(clippy::new_without_default)] // a new key each time is no default
    pub fn new() -> TokenIssuer {
        let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("the curve P-256");
        TokenIssuer {
            key: EcKey::generate(&curve).expect("a key"),
        }
    }

    /// The JSON web key set.
    pub fn key_set(&self) -> String {
        let mut context = BigNumContext::new().expect("room for numbers");
        let (mut x, mut y) = (number(), number());
        self.key
            .public_key()
            .affine_coordinates(self.key.group(), &mut x, &mut y, &mut context)
            .expect("the public key");
        let padded =
            |n: &openssl::bn::BigNumRef| url_base64(&n.to_vec_padded(32).expect("32 bytes"));
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "x": padded(&x), "y": padded(&y), "kid": "1", "alg": "ES256", "use": "sig",
        }]})
        .to_string()
    }

    /// A token for `subject`, valid from now on for `life_s` seconds.
    pub fn token(&self, subject: &str, life_s: u64) -> String {
        let now_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let part = |value: Value| url_base64(value.to_string().as_bytes());
        let signed = format!(
            "{}.{}",
            part(json!({"alg": "ES256", "kid": "1"})),
            part(json!({"sub": subject, "aud": AUDIENCE, "iat": now_s, "exp": now_s + life_s}))
        );
        let signature = EcdsaSig::sign(&sha256(signed.as_bytes()), &self.key).expect("a signature");
        let mut bytes = signature.r().to_vec_padded(32).expect("32 bytes");
        bytes.extend(signature.s().to_vec_padded(32).expect("32 bytes"));
        format!("{signed}.{}", url_base64(&bytes))
    }
}

fn number() -> openssl::bn::BigNum {
    openssl::bn::BigNum::new().expect("a number")
}

fn url_base64(bytes: &[u8]) -> String {
    encode_block(bytes)
        .replace('+', "-")
        .replace('/', "_")
        .replace('=', "")
}
