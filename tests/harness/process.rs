//! A server in a process of its own.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// How long a server may take until it says that it is ready.
const START: Duration = Duration::from_secs(60);

/// A Node program of `tests/servers`; it ends when this value does, and with the test's process in any case,
/// because it reads its standard input to the end.
#[derive(Debug)]
pub struct NodeServer {
    child: Child,
    /// What it said when it was ready.
    pub ready: Value,
}

impl NodeServer {
    /// Starts `script` with `config` and waits until it is ready.
    pub fn start(script: &str, config: &Value) -> Result<Self> {
        let node = std::env::var_os("KEYWARD_TEST_NODE")
            .context("KEYWARD_TEST_NODE is not set: run the tests by `./just test`, which installs Node")?;
        let servers = repository().join("tests/servers");
        let mut child = Command::new(node)
            .arg(servers.join(script))
            .current_dir(&servers)
            .env("SERVER_CONFIG", config.to_string())
            .env("NODE_NO_WARNINGS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {script}"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let (sender, receiver) = mpsc::channel();
        let errors = sender.clone();
        // Both streams are read to their end, so that the server never blocks on a full pipe.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(ready) =
                    serde_json::from_str::<Value>(&line).ok().and_then(|line| line.get("ready").cloned())
                {
                    let _ = sender.send(Ok(ready));
                }
            }
        });
        thread::spawn(move || {
            let text: Vec<String> = BufReader::new(stderr).lines().map_while(Result::ok).collect();
            let _ = errors.send(Err(text.join("\n")));
        });
        match receiver.recv_timeout(START) {
            Ok(Ok(ready)) => Ok(Self { child, ready }),
            Ok(Err(stderr)) => bail!("{script} ended before it was ready:\n{stderr}"),
            Err(_) => {
                let _ = child.kill();
                bail!("{script} was not ready after {START:?}")
            }
        }
    }

    /// The text under `key` of what it said when it was ready.
    pub fn said(&self, key: &str) -> Result<String> {
        Ok(self.ready[key].as_str().with_context(|| format!("the server did not say {key:?}"))?.to_owned())
    }
}

impl Drop for NodeServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}
