//! Bytes that claim to be a component are read without running anything, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = keyward_registry::artifact::read(bytes) {
        let json = keyward_registry::requirements(&manifest);
        assert!(json.iter().all(|line| !line.contains('\n')));
    }
});
