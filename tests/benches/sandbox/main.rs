//! What a sandboxed call costs: the same request natively and through sandbox, gate, vault and audit trail, in one
//! run, round by round in turn. `./just bench` runs it; `docs/speed.md` has the figures.
//!
//! `./just bench redact cold call http memory` names the parts to run; without a name all of them run.
//!
//! The server is this binary again, in a process of its own, so that its processor time does not count.
#![expect(clippy::print_stdout, reason = "the result is what it prints")]

mod load;
mod native;
mod redact;
mod stack;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use keyward_harness::keyward::guest;
use keyward_model::Invoke as _;
use tempfile::TempDir;

use load::{Figures, Resident, measure};
use native::Native;
use stack::{Stack, canned_server};

const PARTS: [&str; 5] = ["redact", "cold", "call", "http", "memory"];
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(700);

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "--serve") {
        return load::runtime(2)?.block_on(canned_server());
    }
    // `cargo bench` and `cargo test --benches` pass flags of their own.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let parts: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        anyhow::bail!("there is no part {unknown:?}; the parts are {}", PARTS.join(", "));
    }
    keyward_harness::keyward::guest("github")?;
    load::runtime(2)?.block_on(run(&parts))
}

async fn run(parts: &[String]) -> Result<()> {
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if wanted("redact") {
        redact::measure();
    }
    if parts.iter().all(|part| part == "redact") && !parts.is_empty() {
        return Ok(());
    }
    let server = stack::Server::start()?;
    let directory = TempDir::new()?;
    let stack = Stack::new(directory.path(), &server.authority).await?;
    if wanted("cold") {
        cold_start().await?;
    }
    if wanted("call") {
        call(&stack).await?;
    }
    if wanted("http") {
        http(&stack, &Native::new(&server.authority)?).await?;
    }
    if wanted("memory") {
        memory(&stack).await?;
    }
    Ok(())
}

async fn call(stack: &Stack) -> Result<()> {
    println!("\n## No HTTP: instantiate, call, drop");
    let ping = stack.ping();
    let figures = measure(1, ROUND * 2, || stack.runtime.invoke(ping.clone())).await?;
    println!(
        "one after another: {:.0} calls/s, {:.1} µs CPU, p50 {:.1} µs",
        figures.rate, figures.cpu_us, figures.p50_us
    );
    Ok(())
}

async fn http(stack: &Stack, native: &Native) -> Result<()> {
    println!("\n## HTTP on loopback, list 10 issues, native against sandboxed");
    for concurrency in [1, 64] {
        let mut rounds: Vec<(Figures, Figures)> = Vec::new();
        for _ in 0..ROUNDS {
            let plain = measure(concurrency, ROUND, || native.list_issues()).await?;
            let call = stack.list_issues();
            let sandboxed = measure(concurrency, ROUND, || stack.runtime.invoke(call.clone())).await?;
            rounds.push((plain, sandboxed));
        }
        let median = |of: fn(&(Figures, Figures)) -> f64| load::median(rounds.iter().map(of).collect());
        println!("concurrency {concurrency}:");
        for (name, side) in
            [("native", (|round| round.0) as fn(&(Figures, Figures)) -> Figures), ("sandboxed", |round| round.1)]
        {
            let median = |of: fn(Figures) -> f64| load::median(rounds.iter().map(|round| of(side(round))).collect());
            println!(
                "  {name:<9}  {:>8.0} req/s  {:>6.1} µs CPU  p50 {:>7.0} µs  p99 {:>7.0} µs",
                median(|figures| figures.rate),
                median(|figures| figures.cpu_us),
                median(|figures| figures.p50_us),
                median(|figures| figures.p99_us)
            );
        }
        println!(
            "  ratio of throughput {:.2}, of CPU {:.2}; added at p50 {:.0} µs, at p99 {:.0} µs",
            median(|r| r.1.rate / r.0.rate),
            median(|r| r.1.cpu_us / r.0.cpu_us),
            median(|r| r.1.p50_us - r.0.p50_us),
            median(|r| r.1.p99_us - r.0.p99_us)
        );
    }
    Ok(())
}

async fn cold_start() -> Result<()> {
    println!("## Cold start");
    for name in ["hello", "github"] {
        let component = guest(name)?;
        let directory = TempDir::new()?;
        let source = timed_load(&component, directory.path().into()).await?;
        // A new runtime on the same cache: from the disk, but with the compiled form there.
        let mut cached = Vec::new();
        for _ in 0..9 {
            cached.push(timed_load(&component, directory.path().into()).await?.as_secs_f64() * 1e3);
        }
        println!(
            "{name}: {} KiB, compiled {:.0} ms, from the cache {:.2} ms",
            std::fs::metadata(&component)?.len() / 1024,
            source.as_secs_f64() * 1e3,
            load::median(cached)
        );
    }
    Ok(())
}

async fn timed_load(component: &Path, cache: PathBuf) -> Result<Duration> {
    let runtime = stack::bare_runtime(component, &cache)?;
    let digest = stack::digest(component)?;
    let start = Instant::now();
    runtime.precompile(component, &digest).await.context("precompile")?;
    Ok(start.elapsed())
}

async fn memory(stack: &Stack) -> Result<()> {
    const CONNECTORS: usize = 100;
    const CALLS: usize = 1000;
    println!("\n## Memory");
    let before = Resident::now()?;
    stack.load_copies(CONNECTORS).await?;
    let idle = Resident::now()?;
    println!("idle connector ({CONNECTORS} loaded): {} each", idle.above(before, CONNECTORS));
    let waiting = stack.hold(CALLS).await?;
    println!("call in flight ({CALLS} at once): {} each", waiting.above(idle, CALLS));
    Ok(())
}
