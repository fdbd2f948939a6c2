//! The mails that the server has kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Its folder.
pub(super) struct Mails {
    folder: PathBuf,
}

/// What came for one address.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    /// Mails.
    pub(super) count: usize,
    /// Their Message-IDs.
    pub(super) ids: BTreeSet<String>,
}

impl Mails {
    /// Those of a server that keeps its files in `folder`.
    pub(super) fn of(folder: &Path) -> Mails {
        Mails {
            folder: folder.join("mails"),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.files().len()
    }

    /// The mails by the address that they are for.
    pub(super) fn by_address(&self) -> BTreeMap<String, Received> {
        let mut mails: BTreeMap<String, Received> = BTreeMap::new();
        for mail in self.texts() {
            let to = header(&mail, "To: ").trim_matches(['<', '>']);
            let received = mails.entry(to.to_owned()).or_default();
            received.count += 1;
            received
                .ids
                .insert(header(&mail, "Message-ID: ").to_owned());
        }
        mails
    }

    /// The mails as they came, oldest first.
    pub(super) fn texts(&self) -> Vec<String> {
        let mut files = self.files();
        files.sort();
        let texts = files.iter().map(std::fs::read_to_string);
        texts.map(|text| text.expect("a mail")).collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.folder).expect("the mails");
        let files = files.map(|file| file.expect("a mail").path());
        files
            .filter(|file| file.extension().is_some_and(|end| end == "eml"))
            .collect()
    }
}

/// The value of a header.
///
/// # Panics
/// When it is missing.
pub(super) fn header<'a>(mail: &'a str, name: &str) -> &'a str {
    let value = mail.lines().find_map(|line| line.strip_prefix(name));
    value
        .unwrap_or_else(|| panic!("{name} is missing: {mail}"))
        .trim()
}
