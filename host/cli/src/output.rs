//! What people and programs see: documents on standard output, everything else on standard error.
//!
//! With `--json` standard output is one JSON document and standard error, where the command fails, is one
//! JSON object; without it both are text, coloured on a terminal alone (`NO_COLOR` is honoured).

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use keyward_model::Diagnostic;
use keyward_registry::is_shown_plainly;
use serde::Serialize;

use crate::{
    diagnostics,
    failure::{Exit, Failure},
};

/// The styles of human output.
pub(crate) mod style {
    use super::{AnsiColor, Style};

    /// Headings and names.
    pub(crate) const STRONG: Style = Style::new().bold();
    /// What is of less interest.
    pub(crate) const FAINT: Style = Style::new().dimmed();
    /// What went well.
    pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
    /// What deserves a look.
    pub(crate) const ODD: Style = AnsiColor::Yellow.on_default();
    /// What failed.
    pub(crate) const BAD: Style = AnsiColor::Red.on_default();
    /// The word before an error.
    pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();
    /// The word before a warning.
    pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
    /// The word before a hint.
    pub(crate) const HINT: Style = AnsiColor::Cyan.on_default().bold();
}

/// `text` in `style`; it must have been cleaned before.
pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// `text` without what moves the cursor, hides or turns letters, or writes escape sequences to a terminal: what a
/// provider or a guest says must show as what it is. Line feed and tab stay.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\t') || is_shown_plainly(c) { c } else { '\u{fffd}' }).collect()
}

/// `document` as JSON over several lines. What would not show as itself is written as `\uXXXX`, which means the same to
/// a program and is harmless on a terminal.
pub(crate) fn json<T: Serialize + ?Sized>(document: &T) -> serde_json::Result<String> {
    Ok(escaped(&serde_json::to_string_pretty(document)?))
}

/// JSON text with what would not show as itself written out. Outside of strings JSON is ASCII, and within them a line
/// feed is written out already.
fn escaped(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
        if c == '\n' || is_shown_plainly(c) {
            text.push(c);
        } else {
            text.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
        text
    })
}

/// How the command speaks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// Speaks JSON where `json`, and says nothing but results and errors where `quiet`.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether a program reads.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether a person can be asked: both ends are a terminal and no program reads.
    pub(crate) fn can_ask(self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// The result: `document` for a program, what `human` makes of it for a person.
    pub(crate) fn result<T: Serialize>(self, document: &T, human: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { self.document(document) } else { self.text(&human()) }
    }

    /// The result as one JSON document, whoever reads it.
    pub(crate) fn document<T: Serialize + ?Sized>(self, document: &T) -> Result<(), Failure> {
        let text = json(document)
            .map_err(|error| Failure::new(Exit::Internal, "internal", "cannot write the result").because(&error))?;
        self.text(&text)
    }

    /// Text on standard output, with a line feed at its end.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        self.part(text).map(|_| ())
    }

    /// The same; the answer tells whether anybody still reads.
    pub(crate) fn part(self, text: &str) -> Result<bool, Failure> {
        let mut stream = anstream::stdout().lock();
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        match write!(stream, "{text}{end}").and_then(|()| stream.flush()) {
            // Whoever read has seen enough (`| head`).
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => {
                Err(Failure::new(Exit::Environment, "output-failed", "cannot write to standard output").because(&error))
            }
            Ok(()) => Ok(true),
        }
    }

    /// A line for the person who waits, on standard error; a program does not get it.
    pub(crate) fn say(self, line: impl Display) {
        self.show(clean(&line.to_string()));
    }

    /// The same for a text with styles, whose parts were cleaned before.
    pub(crate) fn show(self, line: impl Display) {
        if !self.json && !self.quiet {
            to_stderr(format_args!("{line}"));
        }
    }

    /// A line without which nothing goes on, on standard error, whoever reads.
    pub(crate) fn always(self, line: impl Display) {
        to_stderr(format_args!("{}", clean(&line.to_string())));
    }

    /// Something that deserves attention.
    pub(crate) fn warn(self, line: impl Display) {
        if !self.json {
            to_stderr(format_args!("{} {}", styled(style::WARNING, "warning:"), clean(&line.to_string())));
        }
    }

    /// What to do next.
    pub(crate) fn hint(self, line: impl Display) {
        self.show(format_args!("{} {}", styled(style::HINT, "hint:"), clean(&line.to_string())));
    }

    /// A spinner on standard error, where that is a terminal and a person reads.
    pub(crate) fn spinner(self, message: impl Into<String>) -> Spinner {
        if self.json || self.quiet || !io::stderr().is_terminal() {
            return Spinner { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::new_spinner().with_message(message.into());
        if let Ok(look) = ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}") {
            bar.set_style(look);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Spinner { bar }
    }

    /// Faults and warnings with their lines, on standard error; a program gets them otherwise.
    pub(crate) fn diagnostics(self, path: &str, source: &str, diagnostics: &[Diagnostic]) {
        if !self.json {
            to_stderr(format_args!("{}\n", diagnostics::render(path, source, diagnostics, colour_on_stderr())));
        }
    }

    /// Why the command failed, on standard error.
    pub(crate) fn failure(self, failure: &Failure) {
        if self.json {
            to_stderr(format_args!("{}", escaped(&failure.to_json().to_string())));
            return;
        }
        if let Some(faults) = &failure.faults {
            self.diagnostics(&faults.path, &faults.source, &faults.diagnostics);
        }
        if let Some(text) = &failure.transcript {
            to_stderr(format_args!("{}\n", text.trim_end()));
        }
        to_stderr(format_args!("{}", failure_text(failure)));
    }
}

/// Whether standard error shows colours.
pub(crate) fn colour_on_stderr() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
}

/// The error, its causes, notes and hints, a line each.
fn failure_text(failure: &Failure) -> String {
    let mut lines = vec![format!("{} {}", styled(style::ERROR, "error:"), clean(&failure.message))];
    lines.extend(failure.causes.iter().map(|cause| format!("  because: {}", clean(cause))));
    lines.extend(failure.notes.iter().map(|note| styled(style::FAINT, clean(note))));
    lines.extend(failure.hints.iter().map(|hint| format!("{} {}", styled(style::HINT, "hint:"), clean(hint))));
    lines.join("\n")
}

/// Writes a line to standard error. Nobody can be told where that fails.
fn to_stderr(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// A spinner; it vanishes when it is dropped.
pub(crate) struct Spinner {
    bar: ProgressBar,
}

impl Spinner {
    /// Takes it away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Shows a line, cleaned before, above the spinner, which stays.
    pub(crate) fn show(&self, output: Output, line: impl Display) {
        self.bar.suspend(|| output.show(line));
    }

    /// Says what is being done now.
    pub(crate) fn now(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.end();
    }
}

/// A table without lines, its head in bold; it is fitted to the terminal where there is one.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(if io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    // Padding on the right alone, so that the first column starts at the margin.
    table.set_header(head.map(|cell| cell.to_uppercase()));
    for row in rows {
        table.add_row(row.map(|cell| clean(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Names and values below each other.
pub(crate) fn facts<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    pairs
        .iter()
        .map(|(name, value)| {
            let value = clean(value).replace('\n', &format!("\n{:1$}", "", width + 2));
            format!("{}{:2$}{value}", styled(style::STRONG, name), "", width + 2 - name.chars().count())
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Bytes in a unit that reads well.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A moment as `2026-11-22 13:42:07Z`.
pub(crate) fn moment(at: time::OffsetDateTime) -> String {
    const FORM: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    at.to_offset(time::UtcOffset::UTC).format(FORM).unwrap_or_else(|_| at.unix_timestamp().to_string())
}

/// A moment as programs read it (RFC 3339).
pub(crate) fn rfc3339(at: time::OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| moment(at))
}

/// A span of time as `1.2 s` or `3 min 4 s`.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 if span.as_millis() == 0 => format!("{} µs", span.as_micros()),
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{:.1} s", span.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn text_from_outside_cannot_write_escape_sequences() {
        assert_eq!(
            clean("a\u{1b}[2Jb\u{7f}\u{9b}c\r\nd\u{202e}e"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}\nd\u{fffd}e"
        );
        assert!(!table(["a"], [["\u{1b}[31m".to_owned()]]).contains('\u{1b}'));
    }

    #[test]
    fn a_document_shows_every_character_as_itself_or_written_out_and_means_the_same() {
        let document = serde_json::json!({"a\u{9b}": "é\n\t\u{1b}\u{7f}\u{202e}\u{e0041}漢🎉"});
        let text = json(&document).unwrap();
        assert_eq!(text, "{\n  \"a\\u009b\": \"é\\n\\t\\u001b\\u007f\\u202e\\udb40\\udc41漢🎉\"\n}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), document);
    }

    #[test]
    fn an_error_is_told_with_causes_and_hints() {
        let failure = Failure::new(Exit::Environment, "x", "cannot reach the API")
            .because(&io::Error::other("connection refused"))
            .hint("is the server running?")
            .hint("see keyward doctor");
        insta::assert_snapshot!(plain(&failure_text(&failure)), @r"
        error: cannot reach the API
          because: connection refused
        hint: is the server running?
        hint: see keyward doctor
        ");
    }

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_spaces() {
        let rows = [["octocat".to_owned(), "active".to_owned()], ["x".to_owned(), "revoked".to_owned()]];
        insta::assert_snapshot!(table(["name", "state"], rows), @r"
        NAME     STATE
        octocat  active
        x        revoked
        ");
    }

    #[test]
    fn facts_are_aligned_also_over_several_lines() {
        insta::assert_snapshot!(plain(&facts([("name", "a\nb".to_owned()), ("provider", "c".to_owned())])), @r"
        name      a
                  b
        provider  c
        ");
    }

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(
            [0, 1023, 1024, 64 << 20, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "64.0 MiB", "16777216.0 TiB"]
        );
        assert_eq!(
            [0, 5, 1_500, 61_000, 3_660_000, 90_000_000].map(|ms| duration(Duration::from_millis(ms))),
            ["0 µs", "5 ms", "1.5 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]
        );
        assert_eq!(moment(time::OffsetDateTime::UNIX_EPOCH), "1970-01-01 00:00:00Z");
    }
}
