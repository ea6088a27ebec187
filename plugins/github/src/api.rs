//! What all of GitHub's API has in common: its headers, its pages, its errors, its records.

use std::time::Duration;

use keyward::{Request, SendError, clock, http::Response, prelude::*, serde::de::DeserializeOwned};

/// The most that GitHub puts on one page.
pub(crate) const PAGE: u32 = 100;

/// How much of an output a list may take: Keyward takes 4 MiB of JSON with 200,000 values and keys, and beside the list
/// there is little.
const OUTPUT_BYTES: usize = 4_000_000;
const OUTPUT_VALUES: usize = 190_000;

/// GitHub asks for a minute of patience where it names no delay.
const SECONDARY_LIMIT: Duration = Duration::from_secs(60);

/// An account, as it appears in other records.
#[derive(Deserialize)]
pub(crate) struct Account {
    pub(crate) login: String,
}

/// Adds the headers that GitHub wants on each request.
pub(crate) trait GitHub: Sized {
    /// The same request with them.
    fn github(self) -> Self;
}

impl GitHub for Request<'_> {
    fn github(self) -> Self {
        self.header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28")
            .header("user-agent", concat!("keyward-github/", env!("CARGO_PKG_VERSION")))
    }
}

/// Makes an error of a bad status, with what GitHub tells beyond it.
pub(crate) fn checked(response: Response) -> Result<Response> {
    if response.is_success() {
        return Ok(response);
    }
    let mut failure = response.failure();
    match response.status {
        403 | 429 => {
            if let Some(delay) = rate_limit(&response) {
                failure.code = "rate-limited".to_owned();
                failure = failure.retry(Some(delay));
            }
        }
        404 => failure.message.push_str(" (it does not exist, or the connected account may not see it)"),
        422 => {
            for fault in response.json::<Unprocessable>().unwrap_or_default().errors {
                failure.message.push_str("; ");
                failure.message.push_str(&fault.text());
            }
        }
        _ => {}
    }
    Err(failure.into())
}

/// How long to wait where the status means a rate limit: GitHub tells it by a header of three, or by the message.
fn rate_limit(response: &Response) -> Option<Duration> {
    let number = |name| response.header(name).and_then(|text| text.trim().parse::<u64>().ok());
    if let Some(seconds) = number("retry-after") {
        return Some(Duration::from_secs(seconds));
    }
    if let (Some(0), Some(reset)) = (number("x-ratelimit-remaining"), number("x-ratelimit-reset")) {
        // A second more, because the reset is told in whole seconds.
        return Some(Duration::from_secs(reset).saturating_sub(clock::wall()) + Duration::from_secs(1));
    }
    let secondary = response.status == 429 || response.failure().message.contains("secondary rate limit");
    secondary.then_some(SECONDARY_LIMIT)
}

#[derive(Default, Deserialize)]
struct Unprocessable {
    #[serde(default)]
    errors: Vec<Fault>,
}

/// One of the faults that GitHub lists: a sentence, or a field with a code.
#[derive(Deserialize)]
#[serde(untagged)]
enum Fault {
    Sentence(String),
    Field { message: Option<String>, field: Option<String>, code: Option<String> },
}

impl Fault {
    fn text(self) -> String {
        match self {
            Self::Sentence(text) | Self::Field { message: Some(text), .. } => text,
            Self::Field { field, code, .. } => {
                let code = code.unwrap_or_else(|| "invalid".to_owned());
                match field {
                    Some(field) => format!("{field}: {code}"),
                    None => code,
                }
            }
        }
    }
}

/// Reads a list page by page until `limit` of the items that `keep` takes are there; whether there may be more.
///
/// Where the call may not move or return so much, what was found until then is the outcome: another attempt would come
/// no further.
pub(crate) fn collect<Raw: DeserializeOwned, T: Serialize>(
    request: Request<'_>,
    per_page: u32,
    limit: u32,
    mut keep: impl FnMut(Raw) -> Option<T>,
) -> Result<(Vec<T>, bool)> {
    let (mut bytes, mut values) = (0, 0);
    let (mut items, mut pages) = (Vec::new(), request.query("per_page", per_page).github().paginate());
    while let Some(page) = pages.next() {
        let page = match page {
            Err(Error::Http(error)) if !items.is_empty() && is_budget(&error) => {
                keyward::warn!("the list ends after {} of at most {limit}: {error}", items.len());
                return Ok((items, true));
            }
            page => page?,
        };
        let raw: Vec<Raw> = checked(page)?.json()?;
        for item in raw.into_iter().filter_map(&mut keep) {
            if items.len() == limit as usize {
                return Ok((items, true));
            }
            let output = json!(item);
            bytes += output.to_string().len() + 1;
            values += count(&output);
            if bytes > OUTPUT_BYTES || values > OUTPUT_VALUES {
                keyward::warn!("the list ends after {} of at most {limit}: an output holds no more", items.len());
                return Ok((items, true));
            }
            items.push(item);
        }
        if items.len() == limit as usize {
            return Ok((items, pages.more()));
        }
    }
    Ok((items, false))
}

/// How many values and keys are in a value; an empty list or object counts as two.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>().max(1),
        Value::Object(entries) => 1 + entries.values().map(|value| 1 + count(value)).sum::<usize>().max(1),
        _ => 1,
    }
}

/// Whether the call has used up its own requests or bytes.
fn is_budget(error: &SendError) -> bool {
    matches!(error.reason.as_str(), "request-limit" | "too-large")
}
