//! How answers are printed: a table on a terminal, else a JSON object or a line of CSV for each row, as they come.

use crate::terminal::printable;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use clap::ValueEnum;
use serde_json::Value;

use crate::error::{Result, misconfigured};
use crate::terminal::Color;

/// How to print an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One object per line
    Json,
    /// For spreadsheets
    Csv,
}

/// How a row of a table looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Plain,
    New,
    Gone,
}

/// Where an answer goes, and how.
pub(crate) struct Answer {
    format: Format,
    colored: bool,
    out: Box<dyn Write>,
    header: Vec<String>,
    /// The same for a file.
    csv_header: Vec<String>,
    /// Of a table, whose widths are known at its end.
    rows: Vec<(Vec<String>, Look)>,
    /// Of what was shown of it before.
    shown_widths: Option<Vec<usize>>,
    /// Nobody reads it any more.
    is_reader_gone: bool,
    count: u64,
}

impl Answer {
    /// To a file, or to standard output. `format` is what somebody asked for.
    pub(crate) fn new(
        format: Option<Format>,
        file: Option<&Path>,
        color: Color,
        header: &[&str],
    ) -> Result<Answer> {
        let to_terminal = file.is_none() && io::stdout().is_terminal();
        let format = format.unwrap_or(match to_terminal {
            true => Format::Table,
            false => Format::Json,
        });
        let out: Box<dyn Write> = match file {
            Some(file) => Box::new(BufWriter::new(File::create(file).map_err(|error| {
                misconfigured(
                    format!("cannot write {}: {error}", file.display()),
                    "Name a file in a folder that can be written.",
                )
            })?)),
            None => Box::new(BufWriter::new(io::stdout())),
        };
        Ok(Answer {
            format,
            colored: file.is_none() && color.is_on(),
            out,
            header: header.iter().map(|&name| name.to_owned()).collect(),
            csv_header: header
                .iter()
                .map(|name| name.trim_end_matches(" (UTC)").to_lowercase())
                .collect(),
            rows: Vec::new(),
            shown_widths: None,
            is_reader_gone: false,
            count: 0,
        })
    }

    /// Other columns than those that were meant, before the first row.
    pub(crate) fn set_header(&mut self, header: Vec<String>) {
        self.csv_header.clone_from(&header);
        self.header = header;
    }

    /// Adds a row: as an object, and as cells below the header.
    pub(crate) fn row(
        &mut self,
        json: impl FnOnce() -> Value,
        cells: Vec<String>,
        look: Look,
    ) -> Result<()> {
        self.count += 1;
        if self.count == 1 && self.format == Format::Csv {
            self.write(&csv_line(&self.csv_header))?;
        }
        match self.format {
            Format::Json => self.write(&format!("{}\n", json())),
            Format::Csv => self.write(&csv_line(&cells)),
            Format::Table => {
                let cells = cells.iter().map(|cell| printable(cell)).collect();
                self.rows.push((cells, look));
                Ok(())
            }
        }
    }

    /// Adds text as it is, whatever the format.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        self.count += 1;
        self.write(text)
    }

    /// Whether rows are objects.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Rows so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Prints what is still to be printed, a table below its title.
    pub(crate) fn finish(self, title: &str) -> Result<()> {
        self.finish_below(&[title.to_owned()])
    }

    /// As [`Answer::finish`], with a title of several lines.
    pub(crate) fn finish_below(mut self, title: &[String]) -> Result<()> {
        let title = lines(title);
        if self.format == Format::Table && !title.is_empty() {
            let text = table(&title, &self.header, &self.rows, self.colored);
            self.write(&text)?;
        }
        let flushed = self.out.flush();
        self.unless_gone(flushed)
    }

    /// Prints what there is, of an answer that goes on: a table below its title once, later rows as wide as those before at least.
    pub(crate) fn show(&mut self, title: &str) -> Result<()> {
        if self.format == Format::Table {
            let rows = std::mem::take(&mut self.rows);
            let (mut widths, mut text) = match self.shown_widths.take() {
                Some(widths) => (widths, String::new()),
                None => {
                    let widths = self.header.iter().map(|name| name.chars().count());
                    (widths.collect(), format!("{}\n", printable(title)))
                }
            };
            widen(&mut widths, &rows);
            if !text.is_empty() {
                text += &header_line(&self.header, &widths, self.colored);
            }
            text += &row_lines(&self.header, &rows, &widths, self.colored);
            self.shown_widths = Some(widths);
            self.write(&text)?;
        }
        let flushed = self.out.flush();
        self.unless_gone(flushed)
    }

    /// Whether the reader went away: more is of no use to anybody.
    pub(crate) fn is_reader_gone(&self) -> bool {
        self.is_reader_gone
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let written = self.out.write_all(text.as_bytes());
        self.unless_gone(written)
    }

    /// A reader that went away (`| head`) is no error.
    fn unless_gone(&mut self, done: io::Result<()>) -> Result<()> {
        match done {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_reader_gone = true;
                Ok(())
            }
            done => done.map_err(|error| {
                misconfigured(
                    format!("the answer cannot be written: {error}"),
                    "See that there is room on the disk.",
                )
            }),
        }
    }
}

/// Lines of a title, each only one.
fn lines(title: &[String]) -> String {
    let lines = title.iter().map(|line| printable(line));
    lines.collect::<Vec<String>>().join("\n")
}

/// Title, header and rows in columns.
fn table(title: &str, header: &[String], rows: &[(Vec<String>, Look)], colored: bool) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    widen(&mut widths, rows);
    let mut out = format!("{title}\n");
    if rows.is_empty() {
        return out;
    }
    out += &header_line(header, &widths, colored);
    out += &row_lines(header, rows, &widths, colored);
    out
}

fn widen(widths: &mut [usize], rows: &[(Vec<String>, Look)]) {
    for (row, _) in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
}

fn header_line(header: &[String], widths: &[usize], colored: bool) -> String {
    paint(line(header, header, widths), Some("2"), colored)
}

fn row_lines(
    header: &[String],
    rows: &[(Vec<String>, Look)],
    widths: &[usize],
    colored: bool,
) -> String {
    let lines = rows.iter().map(|(row, look)| {
        let code = match look {
            Look::Plain => None,
            Look::New => Some("32"),
            Look::Gone => Some("31"),
        };
        paint(line(header, row, widths), code, colored)
    });
    lines.collect()
}

/// Cells in columns; numbers of versions to the right.
fn line(header: &[String], cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (place, (cell, width)) in cells.iter().zip(widths).enumerate() {
        line += &match (place, header[0].as_str()) {
            (0, "#") => format!("  {cell:>width$}"),
            _ => format!("  {cell:<width$}"),
        };
    }
    line.trim_end().to_owned()
}

fn paint(text: String, code: Option<&str>, colored: bool) -> String {
    match code.filter(|_| colored) {
        Some(code) => format!("\x1b[{code}m{text}\x1b[0m\n"),
        None => format!("{text}\n"),
    }
}

fn csv_line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| csv_cell(cell)).collect();
    cells.join(",") + "\n"
}

/// RFC 4180. A spreadsheet takes what begins like a formula for one, and runs it: an apostrophe makes a text of it there. What is
/// a number stays one.
fn csv_cell(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell != "-";
    if is_formula && cell.parse::<f64>().is_err() {
        return csv_cell(&format!("'{cell}"));
    }
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_columns() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [
            (row(["1", "create", "ä, \"b\""]), Look::New),
            (row(["12", "delete", ""]), Look::Gone),
        ];
        let header = ["#", "OP", "CHANGE"].map(str::to_owned);
        assert_eq!(
            table("t, 2 versions", &header, &rows, false),
            "t, 2 versions\n   #  OP      CHANGE\n   1  create  ä, \"b\"\n  12  delete\n"
        );
        assert_eq!(table("gone", &header, &[], false), "gone\n");
        let colored = table("t", &header, &rows, true);
        assert!(colored.contains("\x1b[32m   1  create"), "{colored:?}");
    }

    #[test]
    fn a_title_has_the_lines_that_it_was_given() {
        let title = ["SOURCE pg".to_owned(), "127.0.0.1:1: re\nfused".to_owned()];
        assert_eq!(lines(&title), "SOURCE pg\n127.0.0.1:1: re\u{fffd}fused");
        assert_eq!(lines(&[String::new()]), "");
    }

    #[test]
    fn cells_cannot_steer_a_terminal_or_break_a_line_of_csv() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
        let cells = ["a".to_owned(), "b,\"c\"\nd".to_owned()];
        assert_eq!(csv_line(&cells), "a,\"b,\"\"c\"\"\nd\"\n");
        for (cell, written) in [
            (
                "=HYPERLINK(\"http://x\",1)",
                "\"'=HYPERLINK(\"\"http://x\"\",1)\"",
            ),
            ("+1+cmd|x", "'+1+cmd|x"),
            ("-1.5", "-1.5"),
            ("+4e3", "+4e3"),
            ("-", "-"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("'=1", "'=1"),
        ] {
            assert_eq!(csv_cell(cell), written);
        }
    }
}
