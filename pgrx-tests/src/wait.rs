//! Waiting for conditions, never for a time; and looking that nothing happens for a while.

use std::fmt::Debug;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `look` sees what `is_reached` accepts, and returns it.
///
/// # Panics
/// After `timeout`, with `what` was waited for and what was seen last.
pub fn wait_for<T: Debug>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> T,
    is_reached: impl Fn(&T) -> bool,
) -> T {
    let start = Instant::now();
    loop {
        let seen = look();
        if is_reached(&seen) {
            return seen;
        }
        assert!(
            start.elapsed() < timeout,
            "waited {:.1} s for {what}; seen last: {seen:?}",
            timeout.as_secs_f64()
        );
        sleep(POLL_INTERVAL);
    }
}

/// Waits until `condition` is `Ok`, and returns its value; the error says what was seen instead.
///
/// # Panics
/// After `timeout`, with `what` was waited for and the last error.
pub fn wait_until<T, E: std::fmt::Display>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) => assert!(
                start.elapsed() < timeout,
                "waited {:.1} s for {what}; seen last: {seen}",
                timeout.as_secs_f64()
            ),
        }
        sleep(POLL_INTERVAL);
    }
}

/// Looks again and again for a while: what must not happen has only that long to happen.
///
/// # Panics
/// At once when a look fails, with its error.
pub fn assert_stays<E: std::fmt::Display>(
    what: &str,
    duration: Duration,
    mut look: impl FnMut() -> Result<(), E>,
) {
    let start = Instant::now();
    while start.elapsed() < duration {
        if let Err(error) = look() {
            let after = start.elapsed().as_secs_f32();
            panic!("{what} ended after {after:.1} s: {error}");
        }
        sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_was_reached() {
        let mut n = 0;
        let seen = wait_for(
            "three",
            Duration::from_secs(5),
            || {
                n += 1;
                n
            },
            |n| *n == 3,
        );
        assert_eq!(seen, 3);
    }

    #[test]
    #[should_panic(expected = "for the impossible; seen last: nothing yet")]
    fn fails_with_what_was_seen() {
        wait_until("the impossible", Duration::from_millis(30), || {
            Err::<(), _>("nothing yet")
        });
    }
}
