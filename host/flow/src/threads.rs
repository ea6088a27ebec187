//! The threads on which flows are computed.
//!
//! Expressions recurse on the stack of their thread, so they need one of known size, which the threads
//! of the asynchronous runtime do not have. They are few: a flow that computes for long makes other
//! flows wait for a thread, and nothing else.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use tokio::sync::oneshot;

use crate::expression::meter;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads with a large stack.
#[derive(Clone)]
pub(crate) struct Threads {
    jobs: mpsc::Sender<Job>,
}

impl Threads {
    /// Starts one thread for each processor. They end when the last clone is dropped.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..count {
            let queue = queue.clone();
            meter::large_stack().name("keyward-flow".to_owned()).spawn(move || {
                meter::stack_is_large();
                loop {
                    // The lock is held while one thread waits for a job, so that one thread gets it.
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    // Whoever waits for the result sees that there is none.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Runs `work` on one of the threads; `None` where it panicked.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (result, waiting) = oneshot::channel();
        let job = Box::new(move || {
            // Nobody waits any more where the run was given up.
            let _ = result.send(work());
        });
        self.jobs.send(job).ok()?;
        waiting.await.ok()
    }
}
