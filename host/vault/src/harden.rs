//! No core dumps.

/// Keeps the memory of this process out of core dumps and away from other processes of the same user
/// (`PR_SET_DUMPABLE` 0, which also refuses `ptrace`, and `RLIMIT_CORE` 0). Call it before the first secret
/// is read. Where the system does not have it or refuses, nothing happens: there is nothing better to do
/// than to go on.
pub fn harden_process() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn hardened_process_leaves_no_core_dump() {
        use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};
        super::harden_process();
        assert!(matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable)));
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
    }
}
