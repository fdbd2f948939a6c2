//! Files with secrets: only the server's user and root may reach them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// Why a file is not read.
pub enum Refused {
    Unreadable(io::Error),
    /// Group or others may reach it, or it belongs to somebody else.
    Exposed,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Unreadable(error)
    }
}

/// The content of a file of mode 0600 that the server's user or root owns.
pub fn read(path: &str) -> Result<Vec<u8>, Refused> {
    // What is looked at is what is read, whatever becomes of the name meanwhile.
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    // SAFETY: asks the kernel for our own user id.
    let own_uid = unsafe { libc::geteuid() };
    if metadata.permissions().mode() & 0o077 != 0
        || (metadata.uid() != own_uid && metadata.uid() != 0)
    {
        return Err(Refused::Exposed);
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}
