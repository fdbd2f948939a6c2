//! Memory of a process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All of it (VmRSS), pages of files and those shared with other processes included (libraries, shared buffers).
    pub resident: u64,
    /// What belongs to no file and is not shared memory (RssAnon): heap and stacks.
    pub anonymous: u64,
    /// The highest that all of it ever was (VmHWM).
    pub highest_resident: u64,
}

impl Memory {
    /// Of a running process.
    ///
    /// # Panics
    /// When there is no such process.
    pub(crate) fn of(pid: u32) -> Memory {
        let file = format!("/proc/{pid}/status");
        Memory::parse(&std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}")))
    }

    /// The larger of two, each figure for itself.
    pub(crate) fn max(self, other: Memory) -> Memory {
        Memory {
            resident: self.resident.max(other.resident),
            anonymous: self.anonymous.max(other.anonymous),
            highest_resident: self.highest_resident.max(other.highest_resident),
        }
    }

    /// As JSON, in MB.
    pub(crate) fn json(self) -> Value {
        json!({"resident_mb": megabytes(self.resident), "anonymous_mb": megabytes(self.anonymous)})
    }

    /// [`Memory::anonymous`] in MB.
    pub(crate) fn anonymous_mb(self) -> f64 {
        megabytes(self.anonymous)
    }

    fn parse(status: &str) -> Memory {
        let bytes = |name: &str| -> u64 {
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
            kilobytes.map_or_else(
                || panic!("no {name} in the status of a process:\n{status}"),
                |kilobytes: u64| kilobytes * 1024,
            )
        };
        Memory {
            resident: bytes("VmRSS"),
            anonymous: bytes("RssAnon"),
            highest_resident: bytes("VmHWM"),
        }
    }
}

/// Bytes in MB (10^6 bytes).
pub(crate) fn megabytes(bytes: u64) -> f64 {
    crate::measures::median::rounded(bytes as f64 / 1e6)
}

/// Does the work, and looks at a process's memory every 20 ms meanwhile; returns the highest of each figure.
///
/// # Panics
/// When the process ends meanwhile.
pub(crate) fn with_peak<T>(pid: u32, work: impl FnOnce() -> T) -> (T, Memory) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = Memory::of(pid);
            while !done.load(Ordering::Relaxed) {
                thread::sleep(LOOK_EVERY);
                peak = peak.max(Memory::of(pid));
            }
            peak.max(Memory::of(pid))
        });
        // Also when the work panics: else the scope would wait for the watcher without end.
        let stop = SetAtEnd(&done);
        let result = work();
        drop(stop);
        (result, watcher.join().expect("the watcher of the memory"))
    })
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_figures() {
        let status =
            "Name:\tx\nVmHWM:\t 90 kB\nVmRSS:\t 30 kB\nRssAnon:\t  12 kB\nRssFile:\t 18 kB\n";
        assert_eq!(
            Memory::parse(status),
            Memory {
                resident: 30 * 1024,
                anonymous: 12 * 1024,
                highest_resident: 90 * 1024,
            }
        );
    }

    #[test]
    fn what_the_work_takes_is_in_the_peak() {
        let size = 64 * 1024 * 1024;
        let before = Memory::of(std::process::id()).anonymous;
        // Kept until the last look is over.
        let (block, peak) = with_peak(std::process::id(), || vec![1u8; size]);
        assert_eq!(block.len(), size);
        assert!(peak.anonymous >= before + size as u64 / 2, "{peak:?}");
        assert!(peak.highest_resident >= peak.resident);
    }
}
