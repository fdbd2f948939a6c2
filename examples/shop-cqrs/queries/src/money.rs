//! Sums of money: whole cents, never a float.

/// Adds up amounts that are texts with two decimals, as PostgreSQL writes a `numeric(12, 2)`; none where one is another text.
pub(crate) fn sum<'a>(amounts: impl Iterator<Item = &'a str>) -> Option<String> {
    let cents = amounts.map(cents).sum::<Option<i128>>()?;
    Some(format!("{}.{:02}", cents / 100, cents % 100))
}

fn cents(amount: &str) -> Option<i128> {
    let (whole, decimals) = amount.split_once('.')?;
    match decimals.len() == 2 && amount.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        true => format!("{whole}{decimals}").parse().ok(),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact() {
        assert_eq!(sum(["0.10", "0.20"].into_iter()).as_deref(), Some("0.30"));
        assert_eq!(sum(std::iter::empty()).as_deref(), Some("0.00"));
        let many = std::iter::repeat_n("9999999999.99", 1000);
        assert_eq!(sum(many).as_deref(), Some("9999999999990.00"));
        assert_eq!(sum(["1.5"].into_iter()), None);
        assert_eq!(sum(["-1.50"].into_iter()), None);
    }
}
