//! What went into the requests of one call, to be taken out of what its guest says.
//!
//! A response is searched while it is read, for what went into its own request. A server can still give a secret away
//! in a form that is found in no single response: one half in each of two. What the guest makes of that is searched
//! where it leaves the call. A guest that wants to say it in words of its own can; one that does not know what it holds
//! cannot say it by accident.

use std::{
    iter,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use zeroize::Zeroizing;

use super::{REDACTED, RedactionCount, Redactor, SHORTEST};
use crate::place::Placed;

/// So many are kept: the work grows with them. A call has a few; only what is made anew for each request, as a signature
/// is, can be more, and of that the oldest is forgotten. What is used again is not old.
const MOST: usize = 24;
/// How many bytes are searched without a pause.
const AT_ONCE: usize = 16 << 10;

/// Every secret that went into a request of one call, and every rendered form of it.
///
/// It begins empty and costs a call without a credential nothing but that.
#[derive(Default)]
pub struct CallSecrets {
    /// In the order of their last use. A std mutex, because it is held for a few comparisons and never over an await.
    secrets: Mutex<Placed>,
}

impl CallSecrets {
    /// They are about to go out.
    pub(crate) fn add(&self, placed: &Placed) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        for secret in placed.iter().filter(|secret| secret.len() >= SHORTEST) {
            match secrets.iter().position(|known| known == secret) {
                Some(known) => secrets[known..].rotate_left(1),
                None => secrets.push(secret.clone()),
            }
        }
        let most = secrets.len().saturating_sub(MOST);
        secrets.drain(..most);
    }

    /// Takes them out of `texts`, as a response is searched, and tells how often there was one. One that goes on from a
    /// text to the next, as over the end of a line, is found as well.
    pub async fn clean(&self, texts: &mut [&mut String]) -> u64 {
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let count = RedactionCount::default();
        let redactor = Redactor::new(&secrets, count.clone());
        if redactor.is_idle() {
            return 0;
        }
        let mut all = Zeroizing::new(Vec::with_capacity(texts.iter().map(|text| text.len() + 1).sum()));
        for text in &*texts {
            all.extend_from_slice(text.as_bytes());
            all.push(b'\n');
        }
        let mut found: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        while at < all.len() {
            let next = all.len().min(at + AT_ONCE);
            let from = found.last().map_or(0, |secret| secret.end).max(at);
            // What ends in the piece before begins there, whatever bits of it the byte in front may hold.
            found.extend(redactor.search(&all, from..next).into_iter().map(|secret| secret.start.max(at)..secret.end));
            at = next;
            // So that others have their turn and a limit of time its effect.
            tokio::task::yield_now().await;
        }
        let mut begin = 0;
        for text in texts {
            let place = begin..begin + text.len();
            begin = place.end + 1;
            if found.iter().any(|secret| secret.start < place.end && place.start < secret.end) {
                **text = without(&all[place.clone()], place.start, &found);
            }
        }
        count.get()
    }
}

/// `text`, which begins `offset` bytes after where `found` is counted from, without what was found. What stands for
/// a secret stands where it begins.
fn without(text: &[u8], offset: usize, found: &[Range<usize>]) -> String {
    let end = offset + text.len();
    let inside = found.iter().filter(|secret| secret.start < end && offset < secret.end);
    let (mut clean, mut at) = (Vec::new(), 0);
    for secret in inside.cloned().chain(iter::once(end..end)) {
        let start = secret.start.max(offset) - offset;
        clean.extend_from_slice(&text[at.min(start)..start]);
        if (offset..end).contains(&secret.start) {
            clean.extend_from_slice(REDACTED);
        }
        at = secret.end.min(end) - offset;
    }
    String::from_utf8(clean).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const TOKEN: &str = "gho_canary0Token+with/all=Kinds_of~chars";

    fn placed(secrets: &[&str]) -> Placed {
        secrets.iter().map(|secret| Arc::new(Zeroizing::new(secret.as_bytes().to_vec()))).collect()
    }

    async fn cleaned(secrets: &CallSecrets, texts: &[&str]) -> (Vec<String>, u64) {
        let mut texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let count = secrets.clean(&mut texts.iter_mut().collect::<Vec<_>>()).await;
        (texts, count)
    }

    #[tokio::test]
    async fn secret_is_taken_out_of_each_text_and_the_others_stay_as_they_are() {
        let secrets = CallSecrets::default();
        secrets.add(&placed(&[TOKEN, "short"]));
        let hex = hex::encode(TOKEN);
        let (texts, count) = cleaned(&secrets, &["", "ä short", &format!("<{TOKEN}>{hex}"), "x", &hex]).await;
        assert_eq!(texts, ["", "ä short", "<[redacted]>[redacted]", "x", "[redacted]"]);
        assert_eq!(count, 3);
    }

    #[tokio::test]
    async fn secret_over_several_lines_leaves_nothing_of_itself() {
        let secrets = CallSecrets::default();
        secrets.add(&placed(&[TOKEN]));
        let (first, rest) = TOKEN.split_at(11);
        let (second, third) = rest.split_at(9);
        let (texts, count) = cleaned(&secrets, &[&format!("a {first}"), second, &format!("{third} b"), "c"]).await;
        assert_eq!(texts, ["a [redacted]", "", " b", "c"]);
        assert_eq!(count, 1);
    }

    #[tokio::test]
    async fn secret_is_found_wherever_the_search_pauses() {
        let secrets = CallSecrets::default();
        secrets.add(&placed(&[TOKEN]));
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, format!("u{TOKEN}"));
        for form in [TOKEN, encoded.as_str()] {
            for before in AT_ONCE - form.len() - 2..AT_ONCE + 2 {
                let text = format!("{}{form} after {form}", "x".repeat(before));
                let (texts, count) = cleaned(&secrets, &[&text]).await;
                let clean = texts[0].trim_start_matches('x').replace("dW", "d");
                assert!(!texts[0].contains(form) && clean.ends_with("[redacted]"), "{before}: {clean}");
                assert_eq!(count, 2, "{before}: {clean}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_used_again_is_not_forgotten_and_the_rest_is_bounded() {
        let secrets = CallSecrets::default();
        for number in 0..10 * MOST {
            secrets.add(&placed(&[TOKEN, &format!("signature-{number:05}")]));
        }
        assert_eq!(secrets.secrets.lock().unwrap_or_else(PoisonError::into_inner).len(), MOST);
        let last = format!("signature-{:05}", 10 * MOST - 1);
        let (texts, _) = cleaned(&secrets, &[TOKEN, &last, "signature-00000"]).await;
        assert_eq!(texts, ["[redacted]", "[redacted]", "signature-00000"]);
    }

    #[tokio::test]
    async fn without_a_secret_nothing_is_searched() {
        let secrets = CallSecrets::default();
        assert_eq!(cleaned(&secrets, &[TOKEN]).await, (vec![TOKEN.to_owned()], 0));
    }
}
