//! The token that a process makes itself where `[http] token_file` names none: rows are shown, and decisions taken, to those only
//! who may read a file of the user that it runs as.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Loaded, read_secret};
use crate::error::Result;
use crate::http::access::random_secret;

/// Beside the configuration, else where the user keeps state.
fn places(config: &Loaded) -> Vec<PathBuf> {
    let file = config
        .file
        .as_deref()
        .map(|file| file.with_extension("token"));
    let name = format!("{}.token", config.name);
    let in_folder = |folder: &str| {
        let folder = std::env::var_os(folder).map(PathBuf::from);
        folder.filter(|folder| folder.is_absolute())
    };
    // As systemd names it, as the XDG Base Directory Specification does, and that one's default.
    let folders = [
        in_folder("STATE_DIRECTORY"),
        in_folder("XDG_STATE_HOME").map(|folder| folder.join("companion-sink")),
        in_folder("HOME").map(|folder| folder.join(".local/state/companion-sink")),
    ];
    let folders = folders.into_iter().flatten();
    file.into_iter()
        .chain(folders.map(|folder| folder.join(&name)))
        .collect()
}

/// The token that a running process of this configuration made, if this user may read it.
pub(crate) fn read(config: &Loaded) -> Option<String> {
    let mut places = places(config).into_iter();
    places.find_map(|place| read_from(&place).ok().flatten())
}

/// None where there is none.
fn read_from(place: &Path) -> Result<Option<String>> {
    if matches!(place.try_exists(), Ok(false)) {
        return Ok(None);
    }
    let token = read_secret(place)?.trim().to_owned();
    Ok((!token.is_empty()).then_some(token))
}

/// The token of this process: that of an earlier one, or a new one.
pub(crate) fn open(config: &Loaded) -> Result<Arc<str>> {
    let mut refused = Vec::new();
    for place in places(config) {
        match read_from(&place) {
            Ok(Some(token)) => {
                tracing::info!(file = %place.display(), "http: rows and decisions want the token of this file");
                return Ok(token.into());
            }
            Ok(None) => {}
            Err(error) => {
                refused.push(error.message);
                continue;
            }
        }
        let token = random_secret()?;
        match write(&place, &token) {
            Ok(()) => {
                tracing::info!(file = %place.display(), "http: rows and decisions want the token of this file, which was made");
                return Ok(token.into());
            }
            Err(error) => refused.push(format!("cannot write {}: {error}", place.display())),
        }
    }
    tracing::warn!(
        hint = "Set [http] token_file to a file of mode 0600 with a long random text.",
        "http: the token for rows and decisions could be written nowhere: nobody knows it: {}",
        refused.join("; ")
    );
    random_secret().map(Into::into)
}

/// Readable for nobody else at any moment, and never over something that is there.
fn write(place: &Path, token: &str) -> std::io::Result<()> {
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(place)?;
    file.write_all(format!("{token}\n").as_bytes())
}
