//! Fills templates with what the request is as it goes on the wire.

use aws_lc_rs::digest::{self, SHA256, SHA512};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use keyward_model::{SendError, manifest::Part};
use keyward_policy::{Piece, Slot, ValueTemplate};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use url::Position;
use zeroize::Zeroizing;

use crate::{
    aead,
    credential::{Fields, Material},
    error::VaultError,
    place::{Draft, Payload, Placed, part_of, unplaceable},
};

/// What templates are filled with, for one request.
pub(super) struct Filling<'a> {
    pub(super) material: &'a Material,
    pub(super) fields: &'a Fields,
    pub(super) method: &'a Method,
    pub(super) now: OffsetDateTime,
    nonce: String,
}

impl<'a> Filling<'a> {
    pub(super) fn new(
        material: &'a Material,
        fields: &'a Fields,
        (method, now): (&'a Method, OffsetDateTime),
    ) -> Result<Self, SendError> {
        let random = aead::random_key().map_err(|error: VaultError| SendError::from(error))?;
        Ok(Self { material, fields, method, now, nonce: hex::encode(&random[..16]) })
    }

    /// A part of what the connection holds; what is secret of it is noted in `placed`.
    pub(super) fn part(&self, part: &Part, placed: &mut Placed) -> Result<&'a [u8], SendError> {
        part_of(part, self.material, self.fields, placed).map(crate::secret::Secret::expose)
    }

    /// Hands the filled template on to `sink`, piece by piece.
    ///
    /// # Errors
    /// [`keyward_model::Reason::CredentialUnplaceable`] where the connection has no such part, or the body is streamed.
    pub(super) fn feed(
        &self,
        template: &ValueTemplate,
        signature: &str,
        draft: &Draft,
        placed: &mut Placed,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SendError> {
        let url = &draft.url;
        for piece in template.pieces() {
            let slot = match piece {
                Piece::Text(text) => {
                    sink(text.as_bytes());
                    continue;
                }
                Piece::Slot(slot) => slot,
            };
            let text = match slot {
                Slot::Method => self.method.to_string(),
                Slot::Host => url[Position::BeforeHost..Position::AfterPort].to_owned(),
                Slot::Path => url.path().to_owned(),
                Slot::Query => url.query().unwrap_or_default().to_owned(),
                Slot::PathAndQuery => url[Position::BeforePath..Position::AfterQuery].to_owned(),
                Slot::Url => url[..Position::AfterQuery].to_owned(),
                Slot::Body => {
                    sink(body(draft)?);
                    continue;
                }
                Slot::BodySha256Hex => hex::encode(digest::digest(&SHA256, body(draft)?)),
                Slot::BodySha256Base64 => STANDARD.encode(digest::digest(&SHA256, body(draft)?)),
                Slot::BodySha512Hex => hex::encode(digest::digest(&SHA512, body(draft)?)),
                Slot::BodySha512Base64 => STANDARD.encode(digest::digest(&SHA512, body(draft)?)),
                Slot::Timestamp => self.now.unix_timestamp().to_string(),
                Slot::TimestampMs => (self.now.unix_timestamp_nanos() / 1_000_000).to_string(),
                Slot::TimestampRfc3339 => self.time(RFC3339)?,
                Slot::TimestampRfc3339Ms => self.time(RFC3339_MS)?,
                Slot::TimestampHttp => self.time(HTTP_DATE)?,
                Slot::Nonce => self.nonce.clone(),
                Slot::Header(name) => {
                    for (index, value) in draft.headers.get_all(name).iter().enumerate() {
                        sink(if index == 0 { b"" } else { b", " });
                        sink(value.as_bytes());
                    }
                    continue;
                }
                Slot::Part(part) => {
                    sink(self.part(part, placed)?);
                    continue;
                }
                Slot::Signature => signature.to_owned(),
            };
            sink(text.as_bytes());
        }
        Ok(())
    }

    /// The filled template.
    pub(super) fn fill(
        &self,
        template: &ValueTemplate,
        signature: &str,
        draft: &Draft,
        placed: &mut Placed,
    ) -> Result<Zeroizing<Vec<u8>>, SendError> {
        // The length is counted first, so that no growing buffer leaves copies behind.
        let mut room = 0;
        self.feed(template, signature, draft, placed, &mut |bytes| room += bytes.len())?;
        let mut filled = Zeroizing::new(Vec::with_capacity(room));
        self.feed(template, signature, draft, &mut Placed::new(), &mut |bytes| filled.extend_from_slice(bytes))?;
        Ok(filled)
    }

    fn time(&self, format: &[BorrowedFormatItem<'_>]) -> Result<String, SendError> {
        self.now.format(format).map_err(|_| unplaceable("the clock tells no time that can be written"))
    }
}

/// The clock of the vault is in UTC.
const RFC3339: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const RFC3339_MS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

fn body(draft: &Draft) -> Result<&[u8], SendError> {
    match &draft.body {
        Payload::Empty => Ok(&[]),
        Payload::Bytes(bytes) => Ok(bytes),
        Payload::Stream => Err(unplaceable("the body is streamed, and its bytes are in the signature")),
    }
}
