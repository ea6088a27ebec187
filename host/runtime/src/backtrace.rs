//! A guest's call stack, as its author reads it.
//!
//! The names come from the guest, so they cost no more than is shown of them: Rust's are demangled as far as there
//! is room, and C++'s are shown as they are, because a name of some hundred bytes can stand for more text than there
//! is memory. Debug information (DWARF) is not read at all.

use std::fmt::{self, Write};

use wasmtime::WasmBacktrace;

use crate::log::for_people;

/// The most bytes of a name that are looked at, and of its demangled form that are made.
const MAX_NAME: usize = 4 << 10;
/// The most bytes of a frame that are shown.
pub(crate) const MAX_FRAME: usize = 400;

/// The frames, innermost first, one line each.
pub(crate) fn frames(backtrace: &WasmBacktrace) -> impl Iterator<Item = String> {
    backtrace.frames().iter().enumerate().map(|(index, frame)| {
        let module = cut(frame.module().name().unwrap_or("<unknown>"));
        let place = frame.module_offset().map(|offset| format!("{offset:#8x} - ")).unwrap_or_default();
        let function = frame.func_name().map_or_else(|| format!("<wasm function {}>", frame.func_index()), name);
        for_people(&format!("  {index:>3}: {place}{module}!{function}"), MAX_FRAME)
    })
}

/// The name of a function; without the hashes that Rust puts into it.
fn name(raw: &str) -> String {
    let raw = cut(raw);
    match rustc_demangle::try_demangle(raw) {
        Ok(name) => {
            let mut text = Bounded(String::new());
            // It fails where there is no more room; the beginning is shown.
            let _ = write!(text, "{name:#}");
            text.0
        }
        Err(_) => raw.to_owned(),
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_NAME)]
}

/// Takes [`MAX_NAME`] bytes and then fails, which ends the demangling.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_NAME {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rust_are_shown_without_their_hashes() {
        for (raw, shown) in [
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvNtCs4fqI2P2rA04_4core3fmt5write", "core::fmt::write"),
            ("sum", "sum"),
            ("_Z3sumIiET_S0_", "_Z3sumIiET_S0_"),
        ] {
            assert_eq!(name(raw), shown);
        }
    }

    /// A number to the base of 62, as the mangling has it: `_` is 0, `0_` is 1.
    fn back_reference(position: usize) -> String {
        const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let (mut rest, mut digits) = (position - 1, String::new());
        loop {
            digits.insert(0, char::from(DIGITS[rest % 62]));
            rest /= 62;
            if rest == 0 {
                return digits + "_";
            }
        }
    }

    #[test]
    fn name_that_stands_for_too_much_is_cut() {
        // Each type argument is a pair of what the one before it is: the last would be 2^40 times `u8`.
        let mut raw = "_RIC1a".to_owned();
        let mut previous = "h".to_owned();
        for _ in 0..40 {
            let here = raw.len() - 2;
            raw.push_str(&format!("T{previous}{previous}E"));
            previous = format!("B{}", back_reference(here));
        }
        raw.push('E');
        let shown = name(&raw);
        assert!(shown.starts_with("a::<(u8, u8), ((u8, u8), (u8, u8))"), "{shown}");
        assert!(shown.len() <= MAX_NAME);
        assert_eq!(name(&"ä".repeat(MAX_NAME)).len(), MAX_NAME);
    }
}
