//! Chance.

use crate::host;

/// The most that the host gives at once, bytes.
const AT_ONCE: usize = 4096;

/// Fills `buffer` from the host's cryptographic generator. In unit tests the bytes are the same in every run.
pub fn fill(buffer: &mut [u8]) {
    for part in buffer.chunks_mut(AT_ONCE) {
        // The host gives what was asked for; were it less, copying would panic rather than leave zeros.
        part.copy_from_slice(&host::random(part.len() as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_filled_to_the_end() {
        let mut buffer = [0; 3 * AT_ONCE + 1];
        fill(&mut buffer);
        assert!(buffer.chunks(16).all(|part| part.iter().any(|byte| *byte != 0) || part.len() < 16));
    }
}
