//! Who this source is: a random id, made once, in a file of the data directory, with proof of its place.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use serde::{Deserialize, Serialize};

/// Below the data directory, which is the server's working directory.
const DIRECTORY: &str = "pg_cdc";
const FILE: &str = "pg_cdc/source.json";

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

/// Reads the identity, or makes it at the very first start.
pub fn load_or_create(random: [u8; 16]) -> std::io::Result<Source> {
    match fs::read(FILE) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{FILE}: {error}"))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(random),
        Err(error) => Err(error),
    }
}

fn create(random: [u8; 16]) -> std::io::Result<Source> {
    match fs::create_dir(DIRECTORY) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let temporary = format!("{FILE}.new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    // The inode stays when the file is renamed.
    let metadata = file.metadata()?;
    let source = Source {
        source_id: uuid_v4(random),
        generation: 1,
        inode: metadata.ino(),
        device: metadata.dev(),
        host: host_name(),
    };
    file.write_all(&serde_json::to_vec_pretty(&source)?)?;
    file.sync_all()?;
    fs::rename(&temporary, FILE)?;
    fs::File::open(DIRECTORY)?.sync_all()?;
    Ok(source)
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
