//! The way of the operator's telemetry to the operator's collector.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use reqwest::{Client, redirect};

use crate::fault::innermost;

/// The most bytes of a collector's answer.
const MAX_ANSWER: u64 = 64 * 1024;

/// Posts telemetry. It is no road for a guest: it has no credential, and whoever holds it gives it whole requests to an
/// address of the operator's configuration, which may be private and without TLS.
///
/// No proxy from the environment, no redirect followed, no header added but `user-agent`.
#[derive(Debug)]
pub struct Collector {
    timeout: Duration,
    /// Made with the first request: most commands end before there is one. Held for that moment only.
    client: Mutex<Option<Client>>,
}

/// Why telemetry did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("the collector did not take it: {0}")]
pub struct CollectorError(String);

impl Collector {
    /// One that waits for an answer for `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, client: Mutex::default() }
    }

    /// Sends `request` and gives the answer, whatever its status.
    ///
    /// # Errors
    /// The collector is not reached or does not answer in time, or its answer has more than 64 KiB.
    pub async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, CollectorError> {
        let failed = |error: reqwest::Error| CollectorError(innermost(&error).to_string());
        let client = self.client().map_err(failed)?;
        let request = request.try_into().map_err(failed)?;
        let mut answer = client.execute(request).await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if (body.len() + chunk.len()) as u64 > MAX_ANSWER {
                return Err(CollectorError(format!("its answer has more than {MAX_ANSWER} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        Ok(response)
    }

    fn client(&self) -> reqwest::Result<Client> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let made = Client::builder()
            .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .timeout(self.timeout)
            .build()?;
        Ok(client.insert(made).clone())
    }
}
