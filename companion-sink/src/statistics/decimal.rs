//! Exact decimal numbers: an integer of any length, and how many of its digits are behind the point.

use std::fmt;

use num_bigint::{BigInt, Sign};

use crate::statistics::kept::codec::{Malformed, Reading, put_bytes, put_u32};

/// The powers of ten of double precision end there; numeric has none in its text.
const EXPONENT_MAX: i64 = 400;
/// Longer ones are refused before they come here.
const DIGITS_MAX: usize = 4096;
/// Digits behind the point of a mean, at least.
const MEAN_SCALE: u32 = 16;

/// An exact decimal number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Decimal {
    unscaled: BigInt,
    scale: u32,
}

impl Decimal {
    /// Reads `-10.50`, `7`, `1e+300`; none for what is no number, infinities among it.
    pub(crate) fn parse(text: &str) -> Option<Decimal> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = whole.strip_prefix(['+', '-']).unwrap_or(whole);
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let is_number = !(digits.is_empty() && fraction.is_empty())
            && are_digits(digits)
            && are_digits(fraction)
            && text.len() <= DIGITS_MAX
            && exponent.abs() <= EXPONENT_MAX;
        if !is_number {
            return None;
        }
        let mut unscaled: BigInt = format!("{whole}{fraction}").parse().ok()?;
        let scale = fraction.len() as i64 - exponent;
        if scale < 0 {
            unscaled *= ten_to(scale.unsigned_abs() as u32);
        }
        Some(Decimal {
            unscaled,
            scale: u32::try_from(scale.max(0)).ok()?,
        })
    }

    /// Adds another one.
    pub(crate) fn add(&mut self, other: &Decimal) {
        let more = self.aligned(other);
        self.unscaled += more;
    }

    /// Takes another one away.
    pub(crate) fn subtract(&mut self, other: &Decimal) {
        let less = self.aligned(other);
        self.unscaled -= less;
    }

    /// The other one's digits with as many behind the point, of which this one has as many then, too.
    fn aligned(&mut self, other: &Decimal) -> BigInt {
        if self.scale < other.scale {
            self.unscaled *= ten_to(other.scale - self.scale);
            self.scale = other.scale;
        }
        match self.scale - other.scale {
            0 => other.unscaled.clone(),
            fewer => &other.unscaled * ten_to(fewer),
        }
    }

    /// The part of `count`, which is not 0, rounded half away from zero.
    pub(crate) fn divided_by(&self, count: u64) -> Decimal {
        let scale = self.scale.max(MEAN_SCALE);
        let whole = &self.unscaled * ten_to(scale - self.scale);
        let count = BigInt::from(count);
        let half = &count / 2;
        let mut unscaled = match whole.sign() {
            Sign::Minus => (whole - half) / &count,
            _ => (whole + half) / &count,
        };
        let mut scale = scale;
        // Zeros that only the division has brought.
        while scale > self.scale && (&unscaled % 10u32) == BigInt::ZERO {
            unscaled /= 10;
            scale -= 1;
        }
        Decimal { unscaled, scale }
    }

    /// Appends bytes that are in the order of the numbers; equal numbers have the same, whatever zeros they end in.
    pub(crate) fn put_ordered(&self, out: &mut Vec<u8>) {
        let text = self.unscaled.magnitude().to_string();
        let digits = text.trim_end_matches('0').as_bytes();
        let exponent = text.len() as i64 - i64::from(self.scale) + (1 << 31);
        let exponent = u32::try_from(exponent).unwrap_or_default();
        match self.unscaled.sign() {
            Sign::NoSign => out.push(2),
            Sign::Plus => {
                out.push(3);
                out.extend_from_slice(&exponent.to_be_bytes());
                out.extend_from_slice(digits);
            }
            Sign::Minus => {
                out.push(1);
                out.extend_from_slice(&(!exponent).to_be_bytes());
                out.extend(digits.iter().map(|digit| !digit));
                // Behind the longer ones.
                out.push(u8::MAX);
            }
        }
    }

    /// Appends it.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_u32(out, self.scale);
        put_bytes(out, &self.unscaled.to_signed_bytes_be());
    }

    /// Reads what `put` appended.
    pub(crate) fn read(from: &mut Reading<'_>) -> Result<Decimal, Malformed> {
        let scale = from.u32()?;
        let unscaled = BigInt::from_signed_bytes_be(from.bytes()?);
        Ok(Decimal { unscaled, scale })
    }
}

fn ten_to(power: u32) -> BigInt {
    BigInt::from(10).pow(power)
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = self.scale as usize;
        let digits = format!("{:0>1$}", self.unscaled.magnitude().to_string(), scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let sign = if self.unscaled.sign() == Sign::Minus {
            "-"
        } else {
            ""
        };
        match fraction {
            "" => write!(f, "{sign}{whole}"),
            fraction => write!(f, "{sign}{whole}.{fraction}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).expect(text)
    }

    #[test]
    fn numbers_are_exact() {
        let mut sum = decimal("0.1");
        sum.add(&decimal("0.2"));
        assert_eq!(sum.to_string(), "0.3");
        sum.add(&decimal("99999999999999999999999999999999999999.99"));
        assert_eq!(
            sum.to_string(),
            "100000000000000000000000000000000000000.29"
        );
        sum.subtract(&decimal("1e+38"));
        assert_eq!(sum.to_string(), "0.29");
        sum.subtract(&decimal("0.30"));
        assert_eq!(sum.to_string(), "-0.01");
        for (text, shown) in [
            ("-0.50", "-0.50"),
            ("1e+3", "1000"),
            ("1.5e-3", "0.0015"),
            ("+7", "7"),
            (".5", "0.5"),
            ("9223372036854775808", "9223372036854775808"),
        ] {
            assert_eq!(decimal(text).to_string(), shown);
        }
        for text in [
            "NaN",
            "Infinity",
            "",
            "-",
            ".",
            "1e999999999",
            "1,5",
            "0x1",
            "1 ",
        ] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn means_are_rounded_away_from_zero() {
        for (sum, count, mean) in [
            ("10.50", 2, "5.25"),
            ("10", 4, "2.5"),
            ("1", 3, "0.3333333333333333"),
            ("-2", 3, "-0.6666666666666667"),
            ("9.00", 3, "3.00"),
        ] {
            assert_eq!(decimal(sum).divided_by(count).to_string(), mean);
        }
    }

    proptest! {
        #[test]
        fn bytes_are_in_the_order_of_numbers(a in -10_000_000i64..10_000_000, b in -10_000_000i64..10_000_000, scale_a in 0u32..6, scale_b in 0u32..6) {
            let of = |unscaled: i64, scale: u32| Decimal { unscaled: unscaled.into(), scale };
            let (one, other) = (of(a, scale_a), of(b, scale_b));
            let bytes = |number: &Decimal| { let mut out = Vec::new(); number.put_ordered(&mut out); out };
            let order = (i128::from(a) * 10i128.pow(6 - scale_a)).cmp(&(i128::from(b) * 10i128.pow(6 - scale_b)));
            prop_assert_eq!(bytes(&one).cmp(&bytes(&other)), order);
            let mut stored = Vec::new();
            one.put(&mut stored);
            prop_assert_eq!(Decimal::read(&mut Reading::new(&stored)).unwrap(), one);
        }
    }
}
