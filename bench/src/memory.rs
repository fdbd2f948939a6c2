//! Memory of a process.

use serde_json::{Value, json};

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it, pages shared with other processes included (shared buffers, libraries).
    pub resident: u64,
    /// What this process alone uses.
    pub private: u64,
}

impl Memory {
    /// Of a running process.
    ///
    /// # Panics
    /// When there is no such process, or its memory may not be read.
    pub fn of(pid: u32) -> Memory {
        let file = format!("/proc/{pid}/smaps_rollup");
        Memory::parse(&std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}")))
    }

    /// The larger of two, each figure for itself.
    pub fn max(self, other: Memory) -> Memory {
        Memory {
            resident: self.resident.max(other.resident),
            private: self.private.max(other.private),
        }
    }

    /// As JSON, in MB (10^6 bytes).
    pub fn json(self) -> Value {
        let megabytes = |bytes: u64| crate::median::rounded(bytes as f64 / 1e6);
        json!({"resident_mb": megabytes(self.resident), "private_mb": megabytes(self.private)})
    }

    fn parse(text: &str) -> Memory {
        let bytes = |name: &str| -> u64 {
            let lines = text
                .lines()
                .filter(|line| line.split(':').next() == Some(name));
            lines.map(|line| kilobytes(line) * 1024).sum()
        };
        Memory {
            resident: bytes("Rss"),
            private: bytes("Private_Clean") + bytes("Private_Dirty"),
        }
    }
}

fn kilobytes(line: &str) -> u64 {
    let number = line
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("not a line of smaps_rollup: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_is_clean_and_dirty() {
        let text = "55 [rollup]\nRss:  3000 kB\nPss: 9 kB\nPrivate_Clean:  10 kB\nPrivate_Dirty:  2 kB\nPrivate_Hugetlb: 7 kB\n";
        assert_eq!(
            Memory::parse(text),
            Memory {
                resident: 3000 * 1024,
                private: 12 * 1024
            }
        );
    }

    #[test]
    fn this_process_has_memory() {
        let memory = Memory::of(std::process::id());
        assert!(memory.private > 0 && memory.resident >= memory.private);
    }
}
