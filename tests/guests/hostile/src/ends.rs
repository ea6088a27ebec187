//! Ends that a call should not have.

use std::time::Duration;

use keyward::prelude::*;
use schemars::{Schema, SchemaGenerator, json_schema};

/// The text.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Panic {
    /// The text.
    message: String,
}

/// Panics.
#[action]
pub(crate) fn panic(input: Panic) -> Result<()> {
    panic!("{}", input.message)
}

/// How to fail.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "as", rename_all = "kebab-case")]
pub(crate) enum Fail {
    /// With a failure of its own.
    Failed {
        /// The code.
        code: String,
        /// The message.
        message: String,
        /// How often the message is repeated.
        #[serde(default = "once")]
        repeat: usize,
        /// The HTTP status.
        status: Option<u16>,
        /// Whether another attempt may succeed.
        #[serde(default)]
        retryable: bool,
        /// How long to wait before it.
        retry_after_ms: Option<u64>,
    },
    /// With an input that does not fit.
    InvalidInput {
        /// The message.
        message: String,
    },
    /// With anything else.
    Other {
        /// The message.
        message: String,
    },
}

fn once() -> usize {
    1
}

/// Fails.
#[action]
pub(crate) fn fail(input: Fail) -> Result<()> {
    Err(match input {
        Fail::Failed { code, message, repeat, status, retryable, retry_after_ms } => {
            let message = message.repeat(repeat);
            Failure { code, message, status, retryable, retry_after: retry_after_ms.map(Duration::from_millis) }.into()
        }
        Fail::InvalidInput { message } => Error::InvalidInput(message),
        Fail::Other { message } => Error::Other(message),
    })
}

/// Text that goes out in the place of JSON, unchecked.
#[derive(Serialize)]
#[serde(rename = "$serde_json::private::RawValue")]
pub(crate) struct Raw {
    #[serde(rename = "$serde_json::private::RawValue")]
    text: String,
}

impl JsonSchema for Raw {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Raw".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!(true)
    }
}

/// How much to return.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct BigOutput {
    /// Bytes of text.
    bytes: usize,
    /// How many arrays it lies in.
    depth: usize,
}

/// Returns an output of any size and depth.
#[action]
pub(crate) fn big_output(input: BigOutput) -> Result<Raw> {
    let text = format!(r#"{}"{}"{}"#, "[".repeat(input.depth), "x".repeat(input.bytes), "]".repeat(input.depth));
    Ok(Raw { text })
}

/// What to return.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct RawOutput {
    /// The text; it need not be JSON.
    text: String,
}

/// Returns what need not be JSON.
#[action]
pub(crate) fn raw_output(input: RawOutput) -> Result<Raw> {
    Ok(Raw { text: input.text })
}

/// A number by its schema.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct WrongOutput {
    /// What to return in the number's place.
    output: Value,
}

/// A value that claims to be a number.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Claimed(Value);

impl JsonSchema for Claimed {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Claimed".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer"})
    }
}

/// Returns what does not match its schema.
#[action]
pub(crate) fn wrong_output(input: WrongOutput) -> Result<Claimed> {
    Ok(Claimed(input.output))
}
