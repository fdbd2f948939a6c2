//! How long to wait before the next attempt: longer each time, and not all at the same moment.

use std::time::Duration;

use change::backoff::Backoff;

use crate::config::RetrySettings;

/// Whoever wants to be left alone for longer is asked again after that.
const NOT_BEFORE_MAX: Duration = Duration::from_secs(86_400);

/// The pause after so many failed attempts. `chance`, from 0 to 1, takes up to half of it away. A receiver that wants no attempt
/// before some time has it so.
pub(crate) fn pause(
    retry: &RetrySettings,
    attempts: u32,
    chance: f64,
    not_before: Option<Duration>,
) -> Duration {
    /// By then the longest one is reached.
    const DOUBLINGS_MAX: u32 = 64;
    let mut backoff = Backoff::new(retry.initial, retry.max);
    let mut pause = backoff.pause();
    for _ in 1..attempts.clamp(1, DOUBLINGS_MAX) {
        pause = backoff.pause();
    }
    let pause = pause.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0);
    pause.max(not_before.unwrap_or_default().min(NOT_BEFORE_MAX))
}

/// A number from 0 to 1.
pub(crate) fn chance() -> f64 {
    let mut bytes = [0; 2];
    // Without randomness the pauses are only less spread.
    let _ = openssl::rand::rand_bytes(&mut bytes);
    f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_the_receiver_can_make_them_longer() {
        let retry = RetrySettings {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(300),
        };
        let seconds = |attempts, chance| pause(&retry, attempts, chance, None).as_secs_f64();
        assert_eq!(
            [1, 2, 3].map(|attempts| seconds(attempts, 0.0)),
            [1.0, 2.0, 4.0]
        );
        assert_eq!(seconds(3, 1.0), 2.0);
        assert_eq!(seconds(u32::MAX, 0.0), 300.0);
        let wanted = |wanted| pause(&retry, 2, 0.0, Some(Duration::from_secs(wanted))).as_secs();
        assert_eq!((wanted(1), wanted(60), wanted(u64::MAX)), (2, 60, 86_400));
        assert!((0.0..=1.0).contains(&chance()));
    }
}
