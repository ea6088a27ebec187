//! A bounded load and what it cost.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, stream::FuturesUnordered};

/// The runtime as the binary sets it up: with the default event interval, guests that compute would keep it from
/// looking at the network.
pub(crate) fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(threads).event_interval(1).enable_all().build()?)
}

/// What a round cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Calls for each second of wall-clock time.
    pub(crate) rate: f64,
    /// Microseconds of this process's processor time for each call, kernel included.
    pub(crate) cpu_us: f64,
    /// Microseconds from start to end of a call, half are faster.
    pub(crate) p50_us: f64,
    /// The same, 99 of 100 are faster.
    pub(crate) p99_us: f64,
}

/// Keeps `concurrency` calls going for `duration`.
pub(crate) async fn measure<F, T, E>(concurrency: usize, duration: Duration, call: impl Fn() -> F) -> Result<Figures>
where
    F: Future<Output = Result<T, E>>,
    E: std::fmt::Display,
{
    // One call outside the count warms connections and caches.
    call().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let timed = || {
        let call = call();
        async move {
            let start = Instant::now();
            call.await.map(|_| start.elapsed())
        }
    };
    let cpu = cpu_time();
    let start = Instant::now();
    let mut latencies = Vec::new();
    let mut calls: FuturesUnordered<_> = (0..concurrency).map(|_| timed()).collect();
    while let Some(elapsed) = calls.next().await {
        latencies.push(elapsed.map_err(|error| anyhow::anyhow!("{error}"))?.as_secs_f64() * 1e6);
        if start.elapsed() < duration {
            calls.push(timed());
        }
    }
    let wall = start.elapsed().as_secs_f64();
    let cpu = (cpu_time() - cpu).as_secs_f64();
    let count = latencies.len() as f64;
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies[((count - 1.0) * share) as usize];
    Ok(Figures { rate: count / wall, cpu_us: cpu * 1e6 / count, p50_us: at(0.5), p99_us: at(0.99) })
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Processor time of this process so far, user and kernel.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Resident memory of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resident {
    /// What only this process can give back, KiB.
    pub(crate) anonymous: f64,
    /// Mapped files, KiB: the kernel drops these pages where memory is short.
    pub(crate) file: f64,
}

impl Resident {
    /// What it is now.
    pub(crate) fn now() -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let figure = |name: &str| -> Result<f64> {
            let line = status.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
            Ok(line.split_whitespace().nth(1).context("no figure")?.parse()?)
        };
        Ok(Self { anonymous: figure("RssAnon:")?, file: figure("RssFile:")? })
    }

    /// What `self` has above `before`, for each of `count`.
    pub(crate) fn above(self, before: Self, count: usize) -> Self {
        let each = |now: f64, before: f64| (now - before) / count as f64;
        Self { anonymous: each(self.anonymous, before.anonymous), file: each(self.file, before.file) }
    }
}

impl std::fmt::Display for Resident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} KiB anonymous, {:.1} KiB of mapped files", self.anonymous, self.file)
    }
}
