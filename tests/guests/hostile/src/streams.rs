//! Bodies without measure, and exchanges used in the wrong order.

use keyward::{
    SendError,
    http::{Exchange, Headers, RequestHead, Target},
    prelude::*,
};

use crate::{requests::Refusal, resources::busy};

fn head(method: &str, path: &str) -> RequestHead {
    let target = Target::Endpoint { endpoint: "api".to_owned(), path: path.to_owned() };
    RequestHead { method: method.to_owned(), target, query: Vec::new(), headers: Headers::default() }
}

/// How a stream ended.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Streamed {
    /// The status; 0 where there was no response.
    status: u16,
    /// How many bytes went or came.
    bytes: u64,
    /// Why it ended early.
    error: Option<Refusal>,
}

/// What to send.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct StreamUp {
    /// The path.
    path: String,
    /// How many bytes.
    bytes: u64,
    /// How many at once.
    #[schemars(range(min = 1))]
    chunk: usize,
    /// The length that is declared, where one is.
    declared: Option<u64>,
}

/// Streams a request's body.
#[action]
pub(crate) fn stream_up(input: StreamUp, connection: &Connection) -> Result<Streamed> {
    let mut bytes = 0;
    let outcome = connection.start(head("POST", &input.path), input.declared).and_then(|exchange| {
        let chunk = vec![b'x'; input.chunk];
        while bytes < input.bytes {
            let count = chunk.len().min((input.bytes - bytes) as usize);
            exchange.write(&chunk[..count])?;
            bytes += count as u64;
        }
        exchange.finish()
    });
    Ok(match outcome {
        Ok(head) => Streamed { status: head.status, bytes, error: None },
        Err(error) => Streamed { status: 0, bytes, error: Some(error.into()) },
    })
}

/// What to read.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct StreamDown {
    /// The path.
    path: String,
    /// How many bytes at once.
    max: u32,
    /// After how many bytes to stop.
    stop_after: Option<u64>,
}

/// Streams a response's body and keeps none of it.
#[action]
pub(crate) fn stream_down(input: StreamDown, connection: &Connection) -> Result<Streamed> {
    let begun = connection.start(head("GET", &input.path), Some(0)).and_then(|exchange| {
        let head = exchange.finish()?;
        Ok((exchange, head))
    });
    let (exchange, head) = match begun {
        Ok(begun) => begun,
        Err(error) => return Ok(Streamed { status: 0, bytes: 0, error: Some(error.into()) }),
    };
    let mut streamed = Streamed { status: head.status, bytes: 0, error: None };
    while input.stop_after.is_none_or(|limit| streamed.bytes < limit) {
        match exchange.read(input.max) {
            Ok(Some(chunk)) => streamed.bytes += chunk.len() as u64,
            Ok(None) => break,
            Err(error) => {
                streamed.error = Some(error.into());
                break;
            }
        }
    }
    Ok(streamed)
}

/// How slowly.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct SlowLoris {
    /// The path.
    path: String,
    /// How many bytes.
    bytes: u64,
    /// How long to pause before each, milliseconds.
    pause_ms: u64,
}

/// Sends a body byte by byte, with pauses.
#[action]
pub(crate) fn slow_loris(input: SlowLoris, connection: &Connection) -> Result<Streamed> {
    let mut bytes = 0;
    let outcome = connection.start(head("POST", &input.path), Some(input.bytes)).and_then(|exchange| {
        while bytes < input.bytes {
            busy(input.pause_ms);
            exchange.write(b"x")?;
            bytes += 1;
        }
        exchange.finish()
    });
    Ok(match outcome {
        Ok(head) => Streamed { status: head.status, bytes, error: None },
        Err(error) => Streamed { status: 0, bytes, error: Some(error.into()) },
    })
}

/// Which misuse.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct MisuseExchange {
    /// The path.
    path: String,
    /// What to do.
    misuse: Misuse,
}

/// A misuse. All but the last two end the call at their last step.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Misuse {
    /// Reads before the request is finished.
    ReadBeforeFinish,
    /// Writes after it is.
    WriteAfterFinish,
    /// Finishes it twice.
    FinishTwice,
    /// Writes a body for a request that has none.
    WriteWithoutBody,
    /// Writes more than it declared.
    WriteTooMuch,
    /// Writes less than it declared.
    WriteTooLittle,
    /// Reads at most 0 bytes.
    ReadNothing,
    /// Reads after the response's end, twice.
    ReadAfterEnd,
}

/// Misuses an exchange; why it was refused, where that is told rather than that the call ended.
#[action]
pub(crate) fn misuse_exchange(input: MisuseExchange, connection: &Connection) -> Result<Option<Refusal>> {
    let outcome = misuse(&input.misuse, &input.path, connection);
    Ok(outcome.err().map(Refusal::from))
}

fn misuse(misuse: &Misuse, path: &str, connection: &Connection) -> Result<(), SendError> {
    let start = |method: &str, length: Option<u64>| connection.start(head(method, path), length);
    match misuse {
        Misuse::ReadBeforeFinish => start("POST", None)?.read(1).map(drop),
        Misuse::WriteAfterFinish => finished(start("POST", None)?)?.write(b"x"),
        Misuse::FinishTwice => finished(start("POST", None)?)?.finish().map(drop),
        Misuse::WriteWithoutBody => start("GET", None)?.write(b"x"),
        Misuse::WriteTooMuch => start("POST", Some(1))?.write(b"xx"),
        Misuse::WriteTooLittle => finished(start("POST", Some(2))?).map(drop),
        Misuse::ReadNothing => finished(start("POST", None)?)?.read(0).map(drop),
        Misuse::ReadAfterEnd => {
            let exchange = finished(start("POST", None)?)?;
            while exchange.read(1 << 16)?.is_some() {}
            exchange.read(1)?;
            exchange.read(1).map(drop)
        }
    }
}

/// The same after one byte of a body.
fn finished(exchange: Exchange) -> Result<Exchange, SendError> {
    exchange.write(b"x")?;
    exchange.finish()?;
    Ok(exchange)
}

/// How many.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct HoardExchanges {
    /// The path.
    path: String,
    /// How many.
    count: u32,
}

/// How many were held at once.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Hoarded {
    /// How many were held at once.
    held: usize,
    /// Why there were no more.
    error: Option<Refusal>,
}

/// Starts requests and never finishes them.
#[action]
pub(crate) fn hoard_exchanges(input: HoardExchanges, connection: &Connection) -> Result<Hoarded> {
    let mut held = Vec::new();
    let mut error = None;
    for _ in 0..input.count {
        match connection.start(head("POST", &input.path), None) {
            Ok(exchange) => held.push(exchange),
            Err(refused) => {
                error = Some(refused.into());
                break;
            }
        }
    }
    Ok(Hoarded { held: held.len(), error })
}
