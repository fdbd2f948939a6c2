//! How long something took, as Prometheus counts it.

/// Counts of observations below each bound.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    pub(super) counts: [u64; Histogram::BOUNDS.len()],
    /// Number of observations.
    pub(crate) count: u64,
    /// Sum of the observations.
    pub(crate) sum: f64,
}

impl Histogram {
    /// Upper bounds in seconds.
    pub(crate) const BOUNDS: [f64; 12] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
    ];

    /// Counts one observation.
    pub(crate) fn observe(&mut self, seconds: f64) {
        self.count += 1;
        self.sum += seconds;
        for (count, bound) in self.counts.iter_mut().zip(Self::BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
    }

    /// Bounds with the number of observations at or below.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        Self::BOUNDS.into_iter().zip(self.counts)
    }
}
