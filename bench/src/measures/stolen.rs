//! What of this machine's CPU time went to others (`steal` of proc_stat(5)): figures of a noisy run explain themselves.

use std::fs;

/// CPU time since the machine's start, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuTime {
    all: u64,
    stolen: u64,
}

impl CpuTime {
    /// As it is now; none where the kernel does not tell.
    pub(crate) fn now() -> Option<CpuTime> {
        CpuTime::of(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn of(stat: &str) -> Option<CpuTime> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let times: Option<Vec<u64>> = line
            .split_whitespace()
            .map(|time| time.parse().ok())
            .collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
        let times = times?;
        Some(CpuTime {
            all: times.iter().take(8).sum(),
            stolen: *times.get(7)?,
        })
    }

    /// Percent of the time between `earlier` and this that was stolen.
    pub(crate) fn stolen_percent(self, earlier: CpuTime) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        let stolen = self.stolen.saturating_sub(earlier.stolen);
        stolen as f64 / all as f64 * 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let at = |line| CpuTime::of(line).expect("times");
        let earlier = at("cpu  100 0 50 800 10 0 0 40 7 0\ncpu0 1 1 1 1\n");
        let later = at("cpu  130 0 60 830 10 0 0 70 9 0\n");
        assert_eq!(later.stolen_percent(earlier), 30.0);
        assert_eq!(CpuTime::of("intr 5\n"), None);
    }
}
