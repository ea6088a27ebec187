//! Time. (`std::time::SystemTime::now` and `Instant::now` panic in a guest.)

use std::time::Duration;

use crate::host;

/// Time since a fixed moment before the call; it never goes back.
pub fn monotonic() -> Duration {
    Duration::from_nanos(host::monotonic())
}

/// Time since 1970-01-01T00:00:00Z, to the millisecond. A unit test may set it with
/// [`FakeHost::set_wall_clock`](crate::testing::FakeHost::set_wall_clock).
pub fn wall() -> Duration {
    Duration::from_millis(host::wall())
}
