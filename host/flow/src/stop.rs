//! How a run is asked to stop.

use tokio::sync::watch;

/// Asks a run to stop once the step under way has ended and is recorded. Clones ask for the same.
#[derive(Debug, Clone, Default)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// Asks. It cannot be taken back.
    pub fn request(&self) {
        self.0.send_replace(true);
    }

    /// Whether somebody asked.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until somebody asks.
    pub async fn requested(&self) {
        // The sender is this one, so it does not end before.
        let _ = self.0.subscribe().wait_for(|requested| *requested).await;
    }
}
