//! The two clocks.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// What the wall clock says; somebody may have set it wrong, and may set it right at any moment.
    pub(crate) wall: OffsetDateTime,
    /// Time since some beginning, which only grows.
    pub(crate) steady: Duration,
}

/// Tells the time. A test has one that it sets.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Clock {
    /// A clock that tells what `tell` says.
    #[cfg(test)]
    pub(crate) fn new(tell: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn now(&self) -> Moment {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        let start = Instant::now();
        Self(Arc::new(move || Moment { wall: OffsetDateTime::now_utc(), steady: start.elapsed() }))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
