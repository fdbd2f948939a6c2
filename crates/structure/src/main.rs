//! Looks at the project's structure and fails when it gets worse.
//!
//! | what | rule |
//! |---|---|
//! | imports | the files of a crate import each other in no circle |
//! | files | 500 lines at most |
//! | functions | 70 lines of code at most |
//! | folders | 14 source files at most |
//! | documents | links lead somewhere, and the files and tests that they name exist |
//! | error codes | every code is used, and has its page and its row; no text has a code |
//!
//! What breaks one of the first four today stands in `structure-exceptions.txt`, which can only shrink. `--write`
//! writes that list as it is now, for files that got other names; what it adds to the list is seen in the change.
//!
//! cargo-modules knows circles too, of items and not of files, and has to build rust-analyzer for it.

mod circles;
mod documents;
mod error_codes;
mod exceptions;
mod imports;
mod modules;
mod sizes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use exceptions::{Finding, Findings};
use modules::Crate;

const MOST_FILE_LINES: usize = 500;
const MOST_FUNCTION_LINES: usize = 70;
const MOST_FOLDER_FILES: usize = 14;
const EXCEPTIONS: &str = "structure-exceptions.txt";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [] => check(),
        ["--write"] => write(),
        _ => Err("Usage: structure [--write], in the project's folder".to_owned()),
    };
    match done {
        Ok(code) => code,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<ExitCode, String> {
    let project = Project::read()?;
    let mut problems = exceptions::compare(&project.findings()?, &read(EXCEPTIONS)?, EXCEPTIONS);
    problems.extend(project.document_problems());
    problems.extend(project.code_problems()?);
    for problem in &problems {
        println!("{problem}");
    }
    Ok(match problems.len() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn write() -> Result<ExitCode, String> {
    let new = exceptions::write(&Project::read()?.findings()?, &read(EXCEPTIONS)?);
    std::fs::write(EXCEPTIONS, new).map_err(|e| format!("{EXCEPTIONS}: {e}"))?;
    Ok(ExitCode::SUCCESS)
}

/// The files of the folder that the program runs in.
struct Project {
    /// Every file, but for what is built.
    files: BTreeSet<PathBuf>,
    /// The Rust sources.
    sources: BTreeMap<PathBuf, String>,
    documents: BTreeMap<PathBuf, String>,
}

impl Project {
    fn read() -> Result<Project, String> {
        let mut files = BTreeSet::new();
        add_files(Path::new(""), &mut files)?;
        let with = |ending: &str| -> Result<BTreeMap<PathBuf, String>, String> {
            let files = files
                .iter()
                .filter(|file| file.extension().is_some_and(|found| found == ending));
            files.map(|file| Ok((file.clone(), read(file)?))).collect()
        };
        Ok(Project {
            sources: with("rs")?,
            documents: with("md")?,
            files,
        })
    }

    /// What breaks a rule that has exceptions.
    fn findings(&self) -> Result<Findings, String> {
        let mut found = Findings::new();
        let mut add = |key: String, number: Option<usize>, message: String| {
            found.insert(key, Finding { number, message });
        };
        for (file, text) in &self.sources {
            let name = file.display();
            let lines = text.lines().count();
            if lines > MOST_FILE_LINES {
                let message =
                    format!("{name} has {lines} lines, {MOST_FILE_LINES} are allowed: split it.");
                add(format!("lines {name}"), Some(lines), message);
            }
            for function in sizes::functions(text).map_err(|e| format!("{name}: {e}"))? {
                let (of, lines) = (function.name, function.lines);
                if lines > MOST_FUNCTION_LINES {
                    let message = format!(
                        "{name}: {of} has {lines} lines of code, {MOST_FUNCTION_LINES} are allowed: split it."
                    );
                    add(format!("function {name} {of}"), Some(lines), message);
                }
            }
        }
        let sources: Vec<PathBuf> = self.sources.keys().cloned().collect();
        for (folder, count) in sizes::files_in_folders(&sources) {
            if count > MOST_FOLDER_FILES {
                let name = folder.display();
                let message = format!(
                    "{name} has {count} source files, {MOST_FOLDER_FILES} are allowed: make folders in it."
                );
                add(format!("folder {name}"), Some(count), message);
            }
        }
        for root in sources
            .iter()
            .filter(|file| is_crate_root(file, &self.files))
        {
            let imports = imports::imports(&Crate::read(root)?);
            for circle in circles::circles(&imports) {
                let arrows = circles::arrows(&imports, &circle);
                for file in &circle {
                    let mine = arrows.iter().filter(|(from, _)| from == file);
                    let to: Vec<String> = mine.map(|(_, to)| to.display().to_string()).collect();
                    let name = file.display();
                    let message = format!(
                        "{name} is in a circle of {} files: it imports {}, from which it is imported in turn.",
                        circle.len(),
                        to.join(", ")
                    );
                    add(format!("circle {name}"), None, message);
                }
            }
        }
        Ok(found)
    }

    fn document_problems(&self) -> Vec<String> {
        let exists = |file: &Path| {
            self.files.contains(file) || self.files.iter().any(|other| other.starts_with(file))
        };
        let mut problems = documents::broken_links(&self.documents, exists);
        let sources = documents::Sources {
            texts: &self.sources,
        };
        problems.extend(documents::missing_names(&self.documents, &sources));
        problems
    }

    fn code_problems(&self) -> Result<Vec<String>, String> {
        // This program's own tests have codes of nothing.
        let is_product = |file: &Path| {
            ["src", "crates", "companion-sink/src", "sql"]
                .iter()
                .any(|part| file.starts_with(part))
                && !file.starts_with("crates/structure")
        };
        let mut sources = self.sources.clone();
        sources.retain(|file, _| is_product(file));
        let is_sql = |file: &&PathBuf| file.extension().is_some_and(|ending| ending == "sql");
        let sql = self.files.iter().filter(|file| is_product(file));
        let sql: Result<Vec<String>, String> = sql.filter(is_sql).map(read).collect();
        let problems = error_codes::problems_of_use(&sources, &sql?);
        let mut problems = problems.map_err(|e| e.to_string())?;
        let in_folder = self.documents.iter().filter_map(|(file, text)| {
            let name = file.strip_prefix("docs/errors").ok()?.to_str()?;
            name.starts_with("CDC")
                .then(|| (name.to_owned(), text.as_str()))
        });
        let table = self.documents.get(Path::new(error_codes::TABLE));
        let table = table.map_or("", String::as_str);
        problems.extend(error_codes::problems_of_pages(&in_folder.collect(), table));
        Ok(problems)
    }
}

/// Whether cargo makes a crate of a file by its place in a package.
fn is_crate_root(file: &Path, files: &BTreeSet<PathBuf>) -> bool {
    let parts: Vec<&str> = file.iter().filter_map(|part| part.to_str()).collect();
    let package = match parts[..] {
        [ref package @ .., "src", "lib.rs" | "main.rs"]
        | [ref package @ .., "src", "bin", _, "main.rs"]
        | [ref package @ .., "tests", _, "main.rs"]
        | [ref package @ .., "src", "bin", _]
        | [ref package @ .., "tests", _] => package,
        _ => return false,
    };
    let package: PathBuf = package.iter().collect();
    files.contains(&package.join("Cargo.toml"))
}

fn add_files(folder: &Path, found: &mut BTreeSet<PathBuf>) -> Result<(), String> {
    let place = if folder == Path::new("") {
        Path::new(".")
    } else {
        folder
    };
    let failed = |e: std::io::Error| format!("{}: {e}", place.display());
    for entry in std::fs::read_dir(place).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = folder.join(entry.file_name());
        if !entry.file_type().map_err(failed)?.is_dir() {
            found.insert(path);
        } else if entry.file_name() != ".git" && entry.file_name() != "target" {
            add_files(&path, found)?;
        }
    }
    Ok(())
}

fn read(file: impl AsRef<Path>) -> Result<String, String> {
    let file = file.as_ref();
    std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))
}
