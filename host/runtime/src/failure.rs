//! What a call that ended without output looked like to the host, told as a typed error.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use keyward_model::{
    InvokeError, InvokeErrorKind, LogLevel, LogLine, MAX_REFUSALS, Reason, SendError, SendErrorKind, manifest::Limits,
};
use wasmtime::{Trap, WasmBacktrace, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use crate::{
    backtrace::{MAX_FRAME, frames},
    bindings::v0_1::exports::keyward::connector::actions::{ActionError, Failure},
    call::{CallState, MAX_RESOURCES},
    convert,
    exchange::Misuse,
    limits::{Breach, raise},
    log::for_people,
    wasi::SocketsDenied,
};

/// The most bytes of a guest's own words in an error.
pub(crate) const MAX_WORDS: usize = 2 << 10;
/// The most bytes of an action's own code.
const MAX_CODE: usize = 64;
/// So many of the last log lines go with a crash.
const LAST_LINES: usize = 10;
/// A memory fault this near below address 0 is taken for an overflow of the guest's stack: no frame is larger.
const LARGEST_FRAME: u64 = 16 << 20;

/// How the line begins in which a guest tells of a panic: `panicked at <place>: <text>`. The SDK writes it from its
/// panic hook, because a trap carries no text.
pub(crate) const PANICKED: &str = "panicked at ";

/// The guest was stopped or crashed, after it had written `log`.
pub(crate) fn crashed(error: &wasmtime::Error, state: &CallState, log: &[LogLine]) -> InvokeError {
    let (reason, message, hint) = cause(error, state, log);
    let mut failure = InvokeError::new(InvokeErrorKind::Guest, reason, message);
    failure.hint = hint;
    failure.sent = state.usage.sent_so_far();
    failure.backtrace = trace(error.downcast_ref(), log);
    failure
}

/// The call took too long, after the guest had written `log`.
pub(crate) fn took_too_long(state: &CallState, log: &[LogLine]) -> InvokeError {
    let limit = state.context.limits.wall_ms;
    let message = format!("the call took longer than {limit} ms");
    let raise = raise("wall_ms", limit, state.ceiling.wall_ms);
    let mut failure = InvokeError::new(InvokeErrorKind::Timeout, Reason::WallLimit, message)
        .hint(format!("{raise}, or find out what it waits for"));
    failure.sent = state.usage.sent_so_far();
    failure.backtrace = trace(None, log);
    failure
}

/// So many requests were denied that the call was ended.
pub(crate) fn denied_too_often(state: &CallState, log: &[LogLine]) -> InvokeError {
    let mut message = format!("the call was ended, because {MAX_REFUSALS} of its requests were denied");
    let last = state.usage.last_told();
    if let Some(last) = &last {
        let _ = write!(message, ", at last: {last}");
    }
    let mut failure = InvokeError::new(InvokeErrorKind::Denied, Reason::DenialLimit, message);
    failure.hint = last.and_then(|last| last.hint);
    failure.sent = state.usage.sent_so_far();
    failure.backtrace = trace(None, log);
    failure
}

/// Time was up while input or output (`what`) was checked.
pub(crate) fn check_took_too_long(what: &str, wall_ms: u64) -> InvokeError {
    let message = format!("checking the {what} took until the call's time was up, after {wall_ms} ms");
    InvokeError::new(InvokeErrorKind::Timeout, Reason::WallLimit, message)
        .hint(format!("give less {what} at once, or find out what the call waited for"))
}

/// What the guest said was searched for secrets for too long.
pub(crate) fn clean_took_too_long() -> SendError {
    let message = "searching what the connector says for secrets took too long, so nothing of it is told";
    SendError::new(SendErrorKind::Timeout, Reason::WallLimit, message)
        .hint("let the action say less at once, or let the connector place fewer parts of the credential")
}

/// The call waited too long for its turn.
pub(crate) fn no_turn(limits: &Limits) -> InvokeError {
    let message = format!("too many calls run at once: none ended within {} ms", limits.wall_ms);
    InvokeError::new(InvokeErrorKind::Timeout, Reason::WallLimit, message)
        .hint("raise `[limits] concurrent_calls` in config.toml, or call less often")
}

/// The action says that it failed.
pub(crate) fn reported(error: ActionError, state: &CallState) -> InvokeError {
    let mut failure = match error {
        ActionError::UnknownAction(name) => {
            let message = format!("the connector has no action {:?}", for_people(&name, MAX_CODE));
            InvokeError::new(InvokeErrorKind::NotFound, Reason::ActionUnknown, message)
                .hint("the manifest declares it and the component does not have it: its author must build it again")
        }
        ActionError::InvalidInput(text) => {
            InvokeError::new(InvokeErrorKind::Validation, Reason::InputInvalid, for_people(&text, MAX_WORDS))
        }
        ActionError::Http(error) => {
            let claimed = convert::claimed_error(error);
            match state.usage.told(&claimed) {
                Some(error) => request_failed(&error),
                // The host said no such thing in this call: it is the guest's own failure in an HTTP error's dress.
                None => InvokeError::new(
                    InvokeErrorKind::Action { code: "http".to_owned() },
                    Reason::ActionFailed,
                    for_people(&claimed.message, MAX_WORDS),
                ),
            }
        }
        ActionError::Failed(failure) => failed(failure),
        ActionError::Other(text) => InvokeError::new(
            InvokeErrorKind::Action { code: "other".to_owned() },
            Reason::ActionFailed,
            for_people(&text, MAX_WORDS),
        ),
    };
    failure.sent = state.usage.sent_so_far();
    failure
}

fn failed(failure: Failure) -> InvokeError {
    let Failure { code, message, status, retryable, retry_after_ms } = failure;
    let mut error = InvokeError::new(
        InvokeErrorKind::Action { code: for_people(&code, MAX_CODE) },
        Reason::ActionFailed,
        for_people(&message, MAX_WORDS),
    );
    error.status = status;
    error.retryable = Some(retryable);
    error.retry_after = retry_after_ms.map(Duration::from_millis);
    error
}

/// A request failed and the action passed that on.
fn request_failed(error: &SendError) -> InvokeError {
    let mut retry_after = None;
    let kind = match &error.kind {
        SendErrorKind::Denied => InvokeErrorKind::Denied,
        SendErrorKind::InsufficientScope { missing } => InvokeErrorKind::InsufficientScope { missing: missing.clone() },
        SendErrorKind::ReconnectRequired => InvokeErrorKind::Connection,
        SendErrorKind::RateLimited { retry_after: delay } => {
            retry_after = *delay;
            InvokeErrorKind::RateLimited
        }
        SendErrorKind::Timeout => InvokeErrorKind::Timeout,
        _ => InvokeErrorKind::Communication,
    };
    let mut failure = InvokeError::new(kind, error.reason, error.message.clone());
    failure.hint = error.hint.clone();
    failure.retry_after = retry_after;
    failure
}

/// What stopped the guest: the reason, the words for it, and what to do.
fn cause(error: &wasmtime::Error, state: &CallState, log: &[LogLine]) -> (Reason, String, Option<String>) {
    let too_many = Breach::Held { limit: MAX_RESOURCES, what: "resources" };
    let breach = match error.downcast_ref::<ResourceTableError>() {
        Some(ResourceTableError::Full) => Some(&too_many),
        _ => error.downcast_ref::<Breach>(),
    };
    if let Some(breach) = breach {
        let (reason, raise) = match breach {
            Breach::Memory { limit, .. } => {
                (Reason::MemoryLimit, raise("memory_bytes", *limit, state.ceiling.memory_bytes))
            }
            Breach::Cpu { limit_ms } => (Reason::CpuLimit, raise("cpu_ms", *limit_ms, state.ceiling.cpu_ms)),
            Breach::Held { .. } => (Reason::ResourceLimit, "let go of what is no longer needed".to_owned()),
        };
        return (reason, breach.to_string(), Some(format!("{raise}, or let it do less at once")));
    }
    if let Some(denied) = error.downcast_ref::<SocketsDenied>() {
        return (Reason::GuestTrap, denied.to_string(), None);
    }
    if let Some(misuse) = error.downcast_ref::<Misuse>() {
        return (Reason::GuestTrap, misuse.to_string(), None);
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return (Reason::GuestTrap, format!("the guest ended itself with exit code {}", exit.0), None);
    }
    let too_deep = Some("look for a recursion without end, or large local arrays".to_owned());
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => (Reason::StackOverflow, "the guest's stack overflowed".to_owned(), too_deep),
        // A compiled language keeps most of its stack in linear memory, where an overflow is a plain memory
        // fault. With the usual layout, the stack below the data, it runs below address 0. A wild pointer can
        // point there as well, so the words say what was seen.
        Some(Trap::MemoryOutOfBounds) if fault_address(error).is_some_and(is_below_zero) => (
            Reason::StackOverflow,
            "the guest used memory just below address 0, as a stack that overflows does".to_owned(),
            too_deep,
        ),
        Some(trap) => match panic_line(log) {
            Some(line) => (Reason::GuestTrap, format!("the guest {}", for_people(line, MAX_WORDS)), None),
            None => (Reason::GuestTrap, format!("the guest crashed: {trap}"), None),
        },
        None => (
            Reason::GuestTrap,
            format!("the guest was stopped: {}", for_people(&error.root_cause().to_string(), MAX_WORDS)),
            None,
        ),
    }
}

/// The last line in which the guest told of a panic.
fn panic_line(log: &[LogLine]) -> Option<&str> {
    let tells = |line: &&LogLine| line.level == LogLevel::Error && line.text.starts_with(PANICKED);
    log.iter().rfind(tells).map(|line| line.text.as_str())
}

/// The address of a memory fault. Wasmtime tells it as text only.
fn fault_address(error: &wasmtime::Error) -> Option<u64> {
    error.chain().find_map(|cause| {
        let mut text = Fault(String::new());
        write!(text, "{cause}").ok()?;
        let (address, _) = text.0.strip_prefix(FAULT)?.split_once(' ')?;
        u64::from_str_radix(address, 16).ok()
    })
}

const FAULT: &str = "memory fault at wasm address 0x";

/// Takes a text that begins with [`FAULT`] and fails at once for any other: among the causes is the backtrace,
/// whose text costs what the guest likes (see [`frames`]).
struct Fault(String);

impl fmt::Write for Fault {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        if self.0.starts_with(FAULT) || FAULT.starts_with(&self.0) { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Addresses are unsigned 32-bit numbers to which an offset is added, so just below 0 is just around 2^32.
fn is_below_zero(address: u64) -> bool {
    address.abs_diff(1 << 32) <= LARGEST_FRAME
}

/// For the author: the guest's call stack, and its last words.
fn trace(backtrace: Option<&WasmBacktrace>, log: &[LogLine]) -> Option<String> {
    let mut lines = Vec::new();
    if let Some(backtrace) = backtrace {
        lines.extend(frames(backtrace));
    }
    let last = &log[log.len().saturating_sub(LAST_LINES)..];
    if !last.is_empty() {
        lines.push("last log lines:".to_owned());
        lines.extend(last.iter().map(|line| format!("  {}", for_people(&line.text, MAX_FRAME))));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_near_address_zero_is_an_overflow_and_one_elsewhere_is_not() {
        for (address, below) in
            [(0xffff_fff8, true), (0x1_0000_0010, true), (0xff00_0000, true), (0x2000_0000, false), (0, false)]
        {
            assert_eq!(is_below_zero(address), below, "{address:#x}");
        }
    }
}
