//! Signatures of Standard Webhooks: HMAC-SHA256 of id, time and body.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;

use crate::config::{Secret, read_secret};
use crate::error::{Result, misconfigured};

/// What requests are signed with.
pub(crate) struct SigningKey(Secret<Vec<u8>>);

impl SigningKey {
    /// Reads a file with a secret: `whsec_` and base64, or any other text as it is.
    pub(crate) fn read(file: &str) -> Result<SigningKey> {
        let text = read_secret(Path::new(file))?;
        SigningKey::of_text(&text).ok_or_else(|| {
            misconfigured(
                format!("{file} has no secret of at least {BYTES_MIN} bytes"),
                "Write whsec_ and the base64 of at least 24 random bytes into it: echo whsec_$(openssl rand -base64 32).",
            )
        })
    }

    fn of_text(text: &str) -> Option<SigningKey> {
        let text = text.trim();
        let bytes = match text.strip_prefix("whsec_") {
            Some(encoded) => BASE64.decode(encoded).ok()?,
            None => text.as_bytes().to_vec(),
        };
        (bytes.len() >= BYTES_MIN).then(|| SigningKey(Secret::new(bytes)))
    }

    /// The header `webhook-signature` for a body that is sent as the event `id` at `timestamp`, in seconds since 1970.
    pub(crate) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Result<String> {
        let failed = |error: openssl::error::ErrorStack| {
            misconfigured(
                format!("openssl cannot sign: {error}"),
                "Look at OpenSSL's configuration on this machine.",
            )
        };
        let key = PKey::hmac(self.0.reveal()).map_err(failed)?;
        let mut signer = Signer::new(MessageDigest::sha256(), &key).map_err(failed)?;
        let head = format!("{id}.{timestamp}.");
        signer.update(head.as_bytes()).map_err(failed)?;
        signer.update(body).map_err(failed)?;
        let signature = signer.sign_to_vec().map_err(failed)?;
        Ok(format!("v1,{}", BASE64.encode(signature)))
    }
}

/// A shorter secret could be guessed.
const BYTES_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_standard() {
        // The example of the libraries of Standard Webhooks.
        let key = SigningKey::of_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = key
            .sign(id, 1_614_265_330, b"{\"test\": 2432232314}")
            .unwrap();
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let plain = SigningKey::of_text("0123456789abcdef").unwrap();
        assert_ne!(
            plain.sign(id, 1, b"").unwrap(),
            plain.sign(id, 2, b"").unwrap()
        );
        for wrong in [
            "",
            "short",
            "whsec_",
            "whsec_no base64 at all",
            "whsec_AAAA",
        ] {
            assert!(SigningKey::of_text(wrong).is_none(), "{wrong}");
        }
    }
}
