//! Money in requests: a text, which PostgreSQL reads as `numeric`. Nothing here computes with it.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// An amount with two decimals at most, such as `19.90`.
#[derive(Debug)]
pub(crate) struct Money(pub(crate) String);

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Money, D::Error> {
        let text = String::deserialize(from)?;
        let (whole, decimals) = text.split_once('.').unwrap_or((&text, "0"));
        let is_number =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        match is_number(whole) && is_number(decimals) && decimals.len() <= 2 {
            true => Ok(Money(text)),
            false => Err(D::Error::custom("money is a text such as \"19.90\"")),
        }
    }
}
