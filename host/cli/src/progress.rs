//! What happens in a run, a line for each thing: live while it runs, and later from its journal.

use std::sync::Mutex;

use keyward_flow::{
    Event, JournalError, Observer, TaskPlace,
    journal::{Entry, RunPhase},
};
use keyward_model::RunId;
use serde_json::Value;

use crate::output::{self, Output, Spinner, clean, style, styled};

/// Longer inputs and outputs are cut in summaries; `--json` has the whole of them.
const SUMMARY: usize = 100;

/// Shows a run while it runs.
pub(crate) struct Live {
    output: Output,
    /// Events come one at a time, and the lock is never held for longer than a line takes.
    spinner: Mutex<Spinner>,
}

impl Live {
    /// Shows on standard error what is recorded from now on.
    pub(crate) fn new(output: Output, message: &str) -> Self {
        Self { output, spinner: Mutex::new(output.spinner(message)) }
    }

    /// Shows a line, whose parts were cleaned before.
    pub(crate) fn say(&self, line: impl std::fmt::Display) {
        self.spinner().show(self.output, line);
    }

    /// Takes the spinner away.
    pub(crate) fn end(&self) {
        self.spinner().end();
    }

    fn spinner(&self) -> std::sync::MutexGuard<'_, Spinner> {
        self.spinner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Observer for Live {
    fn recorded(&self, _: &RunId, entry: &Entry) {
        let Some(event) = event(entry) else { return };
        let spinner = self.spinner();
        if let Event::StepStarted { place, action, .. } = &event {
            spinner.now(clean(&format!("{}: {action}", name(place))));
        }
        if let Some(line) = line(&event) {
            spinner.show(self.output, line);
        }
    }

    fn held_up(&self, _: &RunId, why: &JournalError) {
        self.say(format_args!("{} {why}; it is tried again", styled(style::ODD, "!")));
    }
}

/// The event of an entry; `None` where a newer version wrote one that this one does not know.
pub(crate) fn event(entry: &Entry) -> Option<Event> {
    serde_json::from_value(entry.event.clone()).ok()
}

/// What happened, in a line; `None` for what is of no interest while a run goes on.
fn line(event: &Event) -> Option<String> {
    let marked = |look, mark, place: &TaskPlace, text: &str| {
        let text = clean(&format!("{}  {text}", name(place)));
        Some(format!("{} {text}", styled(look, mark)))
    };
    match event {
        Event::StepStarted { place, attempt, action, connection, .. } => {
            let connection = connection.as_ref().map(|name| format!(" with {name}")).unwrap_or_default();
            let attempt = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
            marked(style::FAINT, "→", place, &format!("{action}{connection}{attempt}"))
        }
        Event::StepCompleted { place, stats, .. } => {
            let time = output::duration(std::time::Duration::from_micros(stats.wall_us));
            let requests = if stats.requests == 1 { "request" } else { "requests" };
            marked(style::GOOD, "✓", place, &format!("{time}, {} {requests}", stats.requests))
        }
        Event::StepFaulted { place, error, .. } | Event::TaskFaulted { place, error } => {
            marked(style::BAD, "✗", place, &problem(error))
        }
        Event::StepUncertain { place, attempt } => marked(
            style::ODD,
            "?",
            place,
            &format!("what became of attempt {attempt} is not known; it is made again with the same idempotency key"),
        ),
        Event::TaskSkipped { place } => marked(style::FAINT, "-", place, "skipped"),
        Event::ErrorCaught { place, .. } => marked(style::ODD, "!", place, "the error is caught"),
        Event::RetryScheduled { place, retry, until, .. } => {
            marked(style::ODD, "↻", place, &format!("retry {retry} at {}", output::moment(*until)))
        }
        Event::RunResumed => Some(format!("{} taken up again", styled(style::FAINT, "→"))),
        _ => None,
    }
}

/// What happened, in a line and, below it, what went in and what came out.
pub(crate) fn details(event: &Event) -> Option<String> {
    let with = |line: String, what: &str, value: &Value| format!("{line}\n    {what} {}", summary(value));
    match event {
        Event::RunStarted => Some("started".to_owned()),
        Event::StepStarted { input, .. } => line(event).map(|line| with(line, "input ", input)),
        Event::StepCompleted { output, log, .. } => line(event).map(|line| {
            let log: String = log.iter().map(|line| format!("\n    log    {}", clean(&line.text))).collect();
            format!("{line}{log}\n    output {}", summary(output))
        }),
        Event::TaskCompleted { place, output } => {
            let name = clean(&name(place));
            Some(with(format!("{} {name}", styled(style::GOOD, "✓")), "output", output))
        }
        Event::StepFaulted { backtrace: Some(backtrace), .. } => {
            line(event).map(|line| format!("{line}\n{}", styled(style::FAINT, clean(backtrace))))
        }
        Event::RunCompleted { .. } => Some(styled(style::GOOD, "completed")),
        Event::RunFaulted { error } => Some(styled(style::BAD, format_args!("faulted: {}", clean(&problem(error))))),
        event => line(event),
    }
}

/// A value in one line, cut.
pub(crate) fn summary(value: &Value) -> String {
    let text = clean(&value.to_string());
    match text.char_indices().nth(SUMMARY) {
        None => text,
        Some((at, _)) => format!("{}… ({})", &text[..at], output::bytes(text.len() as u64)),
    }
}

/// An error of a flow (RFC 9457) in one line.
pub(crate) fn problem(error: &Value) -> String {
    let text = |name: &str| error.get(name).and_then(Value::as_str);
    let what = text("detail").or(text("title")).unwrap_or("an error without a text");
    match text("reason") {
        Some(reason) => format!("{what} ({reason})"),
        None => what.to_owned(),
    }
}

/// The task's name with those around it: `/do/1/each/do/0/close` in the third turn is `each › close [2]`.
pub(crate) fn name(place: &TaskPlace) -> String {
    let mut segments = place.task.split('/');
    let mut names = Vec::new();
    // In a pointer into a flow, what follows a position in a list is the name of a task.
    while let Some(segment) = segments.next() {
        if !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit()) {
            names.extend(segments.next().map(|name| name.replace("~1", "/").replace("~0", "~")));
        }
    }
    let name = if names.is_empty() { place.task.clone() } else { names.join(" › ") };
    match place.iteration.as_slice() {
        [] => name,
        turns => format!("{name} [{}]", turns.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
    }
}

/// Where a run stands, in a word.
pub(crate) fn phase(phase: RunPhase) -> &'static str {
    match phase {
        RunPhase::Pending => "pending",
        RunPhase::Running => "running",
        RunPhase::Waiting => "waiting",
        RunPhase::Completed => "completed",
        RunPhase::Faulted => "faulted",
        RunPhase::Cancelled => "cancelled",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(task: &str, iteration: &[u32]) -> TaskPlace {
        TaskPlace { task: task.to_owned(), iteration: iteration.to_vec() }
    }

    #[test]
    fn a_task_is_told_by_the_names_around_it() {
        for (task, iteration, expected) in [
            ("/do/0/fetch", &[] as &[u32], "fetch"),
            ("/do/0/tryGetPet/try/0/getPet", &[], "tryGetPet › getPet"),
            ("/do/1/each/do/0/close", &[2], "each › close [2]"),
            ("/do/0/a~1b/catch/do/3/c", &[0, 1], "a/b › c [0,1]"),
            ("/input", &[], "/input"),
        ] {
            assert_eq!(name(&place(task, iteration)), expected);
        }
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(summary(&json!({"a": 1})), r#"{"a":1}"#);
        let long = summary(&json!("ä".repeat(500)));
        assert_eq!(long.chars().take_while(|c| *c != '…').count(), SUMMARY);
    }

    #[test]
    fn what_happens_is_told_in_lines() {
        let stats = json!({"requests": 1, "request_bytes": 0, "response_bytes": 9, "memory_bytes": 9, "wall_us": 1500});
        let events = [
            json!({"event": "run-started"}),
            json!({"event": "step-started", "task": "/do/0/a", "attempt": 2, "action": "github.list-issues",
                   "connection": "work", "idempotencyKey": "k", "input": {"owner": "o"}}),
            json!({"event": "step-completed", "task": "/do/0/a", "attempt": 2, "output": [1], "stats": stats}),
            json!({"event": "step-faulted", "task": "/do/0/a", "attempt": 2,
                   "error": {"detail": "no\u{1b}[2J", "reason": "unreachable"}}),
            json!({"event": "run-faulted", "error": {"title": "Runtime Error"}}),
        ];
        let lines: Vec<_> = events
            .into_iter()
            .map(|event| serde_json::from_value::<Event>(event).unwrap())
            .filter_map(|event| details(&event))
            .collect();
        insta::assert_snapshot!(anstream::adapter::strip_str(&lines.join("\n")).to_string());
    }
}
