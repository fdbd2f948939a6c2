//! Secrets: values that are never shown, and the files that hold them.

use std::fmt;
use std::path::Path;

use change::trouble::Trouble;
use serde::{Serialize, Serializer};

use crate::error::{Code, Result, misconfigured};

const HIDDEN: &str = "***";

/// A value that is never shown, whoever prints what holds it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret<T>(T);

impl<T> Secret<T> {
    /// Hides a value.
    pub(crate) fn new(value: T) -> Self {
        Secret(value)
    }

    /// The value itself.
    pub(crate) fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl<T> Serialize for Secret<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

/// Reads a file that holds a secret; it must be this user's, or root's, and others must not be able to read it (CDC1002). What is
/// looked at is what is read, whatever the path leads to meanwhile.
pub(crate) fn read_secret(path: &Path) -> Result<String> {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    const LONGEST_BYTES: u64 = 1 << 20;
    let failed = |error: std::io::Error| {
        misconfigured(
            format!("cannot read {}: {error}", path.display()),
            "Make the file readable for this user, or change the path.",
        )
    };
    let refused = |why: String, remedy: String| Err(Trouble::new(Code::SecretFile, why, remedy));
    let mut options = std::fs::OpenOptions::new();
    // A pipe that nobody writes would be waited for.
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return refused(
            format!("{} is no ordinary file", path.display()),
            "Write the secret into a file of mode 0600.".to_owned(),
        );
    }
    let mode = metadata.mode();
    if mode & 0o077 != 0 {
        return refused(
            format!(
                "{} can be read by others (mode {:04o})",
                path.display(),
                mode & 0o7777
            ),
            format!("chmod 0600 {}", path.display()),
        );
    }
    // SAFETY: it takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    if metadata.uid() != user && metadata.uid() != 0 {
        return refused(
            format!(
                "{} belongs to user {}, who can change it, and this process runs as {user}",
                path.display(),
                metadata.uid()
            ),
            format!("chown {user} {}", path.display()),
        );
    }
    let mut text = String::new();
    let read = file.take(LONGEST_BYTES).read_to_string(&mut text);
    read.map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_nowhere() {
        let secret = Secret::new("hunter2".to_owned());
        let json = serde_json::to_string(&secret).unwrap();
        assert_eq!(format!("{secret} {secret:?} {json}"), "*** *** \"***\"");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn a_secret_is_read_only_where_nobody_else_can() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        std::fs::write(&file, "hunter2").unwrap();
        for (mode, is_read) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file, permissions).unwrap();
            let read = read_secret(&file);
            assert_eq!(read.is_ok(), is_read, "{mode:o}");
            if let Err(error) = read {
                assert_eq!(error.code, Code::SecretFile);
            }
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read_secret(&file).unwrap_err().code, Code::Configuration);
        assert_eq!(
            read_secret(&std::env::temp_dir()).unwrap_err().code,
            Code::SecretFile
        );
    }
}
