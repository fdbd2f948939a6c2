//! Floating-point numbers as JSON: the shortest digits that read back to the same bits.

use crate::value::json::put_integer;

/// Appends a `float8`; what JSON numbers cannot say becomes the strings `"NaN"`, `"Infinity"`, `"-Infinity"`.
pub fn put_float8(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        put_shortest(out, &format!("{value:e}"), 15);
    } else {
        put_special(out, value);
    }
}

/// Appends a `float4`.
pub fn put_float4(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() {
        put_shortest(out, &format!("{value:e}"), 6);
    } else {
        put_special(out, f64::from(value));
    }
}

fn put_special(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(match value {
        f64::INFINITY => b"\"Infinity\"",
        f64::NEG_INFINITY => b"\"-Infinity\"",
        _ => b"\"NaN\"",
    });
}

/// Lays out Rust's shortest digits (`d.ddde[-]x`) as PostgreSQL does: plain from 1e-4 to below 1e`plain_below`,
/// else with a signed exponent. Whole numbers keep `.0`, so that they stay floats for a reader.
fn put_shortest(out: &mut Vec<u8>, scientific: &str, plain_below: i32) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let digits: Vec<u8> = mantissa.bytes().filter(|byte| *byte != b'.').collect();
    if sign {
        out.push(b'-');
    }
    if !(-4..plain_below).contains(&exponent) {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        let size = exponent.unsigned_abs();
        if size < 10 {
            out.push(b'0');
        }
        put_integer(out, size);
    } else if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + (-exponent - 1) as usize, b'0');
        out.extend_from_slice(&digits);
    } else {
        let whole = exponent as usize + 1;
        if digits.len() > whole {
            out.extend_from_slice(&digits[..whole]);
            out.push(b'.');
            out.extend_from_slice(&digits[whole..]);
        } else {
            out.extend_from_slice(&digits);
            out.resize(out.len() + whole - digits.len(), b'0');
            out.extend_from_slice(b".0");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(value: f64) -> String {
        let mut out = Vec::new();
        put_float8(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn looks_like_postgresql() {
        for (value, text) in [
            (0.1, "0.1"),
            (1e300, "1e+300"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (123456789012345.0, "123456789012345.0"),
            (1e15, "1e+15"),
            (1.5e-7, "1.5e-07"),
            (f64::NAN, "\"NaN\""),
            (f64::NEG_INFINITY, "\"-Infinity\""),
        ] {
            assert_eq!(shown(value), text);
        }
    }

    proptest! {
        #[test]
        fn reads_back_to_the_same_bits(bits: u64, small: u32) {
            let value = f64::from_bits(bits);
            if value.is_finite() {
                prop_assert_eq!(shown(value).parse::<f64>().unwrap().to_bits(), bits);
            }
            let value = f32::from_bits(small);
            if value.is_finite() {
                let mut out = Vec::new();
                put_float4(&mut out, value);
                prop_assert_eq!(String::from_utf8(out).unwrap().parse::<f32>().unwrap().to_bits(), small);
            }
        }
    }
}
