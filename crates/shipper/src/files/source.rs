//! Who a source is: a random id, made once, in a file of the data directory, with proof of its place.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use super::durable;

pub const FILE: &str = "pg_cdc/source.json";

/// The identity file. Inode, device and host are those of the place where it was written: a copied data directory
/// has others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub source_id: String,
    pub generation: u16,
    pub inode: u64,
    pub device: u64,
    pub host: String,
}

impl Source {
    /// As it was made; none if there is no file.
    pub fn read() -> std::io::Result<Option<Source>> {
        durable::read(FILE)
    }

    /// A new one, out of random bytes.
    pub fn make(random: [u8; 16]) -> std::io::Result<Source> {
        write(uuid_v4(random), 1)
    }

    /// The same source, one generation later: its events are newer than all that were ever sent.
    pub fn next_generation(&self) -> std::io::Result<Source> {
        let next = self.generation.checked_add(1);
        let next = next.ok_or_else(|| std::io::Error::other("there is no further generation"))?;
        write(self.source_id.clone(), next)
    }
}

fn write(source_id: String, generation: u16) -> std::io::Result<Source> {
    durable::replace(FILE, |file| {
        // The inode stays when the file is renamed.
        let metadata = file.metadata()?;
        Ok(Source {
            source_id,
            generation,
            inode: metadata.ino(),
            device: metadata.dev(),
            host: host_name(),
        })
    })?;
    durable::read(FILE)?.ok_or_else(|| std::io::Error::other("the identity is gone again"))
}

/// RFC 9562, version 4.
fn uuid_v4(mut random: [u8; 16]) -> String {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// The host's name, for people to read.
pub fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
