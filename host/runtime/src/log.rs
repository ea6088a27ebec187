//! What a guest writes during one call: cut at the limit, one line at a time, without control characters.

use keyward_model::{LogLevel, LogLine};
use time::OffsetDateTime;

/// The lines of one call, whatever their bytes: an empty line costs the host memory as well.
const MAX_LINES: usize = 10_000;
/// A line of standard output that does not end is cut here.
const MAX_PARTIAL_LINE: usize = 8 << 10;
/// The text of the line that stands last when the limit was reached.
const LIMIT_REACHED: &str = "log limit reached";

/// Where a WASI guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output: lines of level `info`.
    Out,
    /// Standard error: lines of level `warn`.
    Err,
}

/// The log of one call, with the guest's own characters until [`show`] makes them fit for people: what is taken out of
/// it is found among those only.
#[derive(Debug)]
pub(crate) struct CallLog {
    lines: Vec<LogLine>,
    /// Bytes that may still be written; `None` after the limit was reached.
    left: Option<u64>,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl CallLog {
    /// An empty log that takes `limit` bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self { lines: Vec::new(), left: Some(limit), out: Vec::new(), err: Vec::new() }
    }

    /// Writes one line. A line that does not fit is cut, a last one says so, and the rest is dropped.
    pub(crate) fn write(&mut self, level: LogLevel, text: &str) {
        let Some(left) = self.left else { return };
        let fits = usize::try_from(left).unwrap_or(usize::MAX);
        let kept = cut(text, fits).trim_end();
        // The line break counts, so that empty lines have an end too.
        let cost = kept.len() as u64 + 1;
        if text.len() > fits || cost > left || self.lines.len() + 1 >= MAX_LINES {
            if !kept.is_empty() {
                self.push(level, kept.to_owned());
            }
            self.push(LogLevel::Warn, LIMIT_REACHED.to_owned());
            self.left = None;
        } else {
            self.left = Some(left - cost);
            self.push(level, kept.to_owned());
        }
    }

    /// Takes bytes of standard output or error; every line that is complete is written.
    pub(crate) fn write_bytes(&mut self, stream: Stream, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.left.is_none() {
                return;
            }
            let (line, ends) = match piece.strip_suffix(b"\n") {
                Some(line) => (line.strip_suffix(b"\r").unwrap_or(line), true),
                None => (piece, false),
            };
            // A piece is as long as the guest likes, and what is kept of it must not be.
            for part in line.chunks(MAX_PARTIAL_LINE) {
                let partial = self.partial(stream);
                partial.extend_from_slice(part);
                if partial.len() >= MAX_PARTIAL_LINE {
                    self.end_line(stream);
                }
            }
            if ends {
                self.end_line(stream);
            }
        }
    }

    /// Takes all lines, oldest first, with what stands without a line break yet as lines of their own.
    pub(crate) fn take(&mut self) -> Vec<LogLine> {
        for stream in [Stream::Out, Stream::Err] {
            if !self.partial(stream).is_empty() {
                self.end_line(stream);
            }
        }
        std::mem::take(&mut self.lines)
    }

    fn partial(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        }
    }

    fn end_line(&mut self, stream: Stream) {
        let line = std::mem::take(self.partial(stream));
        let level = match stream {
            Stream::Out => LogLevel::Info,
            Stream::Err => LogLevel::Warn,
        };
        self.write(level, &String::from_utf8_lossy(&line));
    }

    fn push(&mut self, level: LogLevel, text: String) {
        self.lines.push(LogLine { at: OffsetDateTime::now_utc(), level, text });
    }
}

/// Makes `lines` fit for people: each is one line, and says what it seems to say.
pub(crate) fn show(lines: &mut [LogLine]) {
    for line in lines {
        if line.text.contains(is_unprintable) {
            line.text = printable(&line.text);
        }
    }
}

/// The first `limit` bytes of `text`, or as many fewer as end with a whole character.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// `text` with a space for each character that could forge a line or turn its reading order around.
fn printable(text: &str) -> String {
    text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect()
}

/// Control characters, line and paragraph separators, and the marks that change the direction of text.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// `text` as a guest gave it for people to read: one line of at most `limit` bytes.
pub(crate) fn for_people(text: &str, limit: usize) -> String {
    let mut shown = printable(cut(text, limit).trim_end());
    if limit < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &mut CallLog) -> Vec<String> {
        let mut lines = log.take();
        show(&mut lines);
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn line_at_the_limit_is_cut_and_one_last_line_says_so() {
        let mut log = CallLog::new(10);
        log.write(LogLevel::Info, "12345");
        log.write(LogLevel::Info, "äääää");
        log.write(LogLevel::Info, "lost");
        assert_eq!(texts(&mut log), ["12345", "ää", LIMIT_REACHED]);
    }

    #[test]
    fn empty_lines_come_to_an_end() {
        let mut log = CallLog::new(3);
        (0..10).for_each(|_| log.write(LogLevel::Info, ""));
        assert_eq!(texts(&mut log), ["", "", "", LIMIT_REACHED]);
        let mut log = CallLog::new(u64::MAX);
        (0..2 * MAX_LINES).for_each(|_| log.write(LogLevel::Info, ""));
        let lines = texts(&mut log);
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (MAX_LINES, Some(LIMIT_REACHED)));
    }

    #[test]
    fn characters_that_forge_lines_become_spaces() {
        let mut log = CallLog::new(100);
        log.write(LogLevel::Info, "a\nb\u{1b}[31mc\u{2028}d\u{202e}e\n");
        assert_eq!(texts(&mut log), ["a b [31mc d e"]);
    }

    #[test]
    fn output_is_written_by_lines_and_the_last_one_without_its_end() {
        let mut log = CallLog::new(1000);
        log.write_bytes(Stream::Out, b"one\r\ntw");
        log.write_bytes(Stream::Err, b"oops");
        log.write_bytes(Stream::Out, b"o\nrest");
        let lines: Vec<_> = log.take().into_iter().map(|line| (line.level, line.text)).collect();
        let expected =
            [(LogLevel::Info, "one"), (LogLevel::Info, "two"), (LogLevel::Info, "rest"), (LogLevel::Warn, "oops")];
        assert_eq!(lines, expected.map(|(level, text)| (level, text.to_owned())));
    }

    #[test]
    fn output_without_line_breaks_does_not_pile_up() {
        let mut log = CallLog::new(20_000);
        log.write_bytes(Stream::Out, &vec![b'x'; 1 << 20]);
        assert!(log.out.len() < MAX_PARTIAL_LINE);
        let lines = texts(&mut log);
        assert!(lines.iter().map(String::len).sum::<usize>() <= 20_000 + LIMIT_REACHED.len());
        assert_eq!(lines.last().map(String::as_str), Some(LIMIT_REACHED));
    }
}
