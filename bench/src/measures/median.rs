//! Medians and percentiles of measured figures.

/// The value below which `percent` of the figures lie (nearest rank).
///
/// # Panics
/// When there are no figures.
pub(crate) fn percentile(figures: &mut [f64], percent: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * figures.len() as f64).ceil() as usize;
    figures[rank.clamp(1, figures.len()) - 1]
}

/// The median.
///
/// # Panics
/// When there are no figures.
pub(crate) fn median(figures: &[f64]) -> f64 {
    percentile(&mut figures.to_vec(), 50.0)
}

/// Three digits after the point.
pub(crate) fn rounded(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

/// All of them with three digits after the point.
pub(crate) fn all_rounded(figures: &[f64]) -> Vec<f64> {
    figures.iter().copied().map(rounded).collect()
}

/// Without digits after the point.
pub(crate) fn whole(figure: f64) -> i64 {
    figure.round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let mut figures: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut figures, 50.0), 50.0);
        assert_eq!(percentile(&mut figures, 99.0), 99.0);
        assert_eq!(percentile(&mut [7.0], 99.0), 7.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
