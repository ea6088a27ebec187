//! Undoes the content encoding of a response and counts what comes out.

use std::{io, pin::Pin};

use async_compression::tokio::bufread::{BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, header};
use keyward_model::{Reason, Sent};
use keyward_vault::WireError;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::{ReaderStream, StreamReader};

/// What the host asks a server for. The guest has no say in it: what it gets is always plain.
pub(crate) const ACCEPT_ENCODING: &str = "gzip, deflate, br, zstd";

/// The most that is decoded at once, so that a bomb is noticed after this many bytes too many.
const CHUNK: usize = 16 * 1024;

/// The largest window of zstd, as a power of two: 8 MiB, what RFC 9659 asks of a decoder on the web.
const ZSTD_WINDOW_LOG: u32 = 23;

/// One chunk of a body, or why there is no more.
pub(crate) type Chunk = Result<Bytes, WireError>;

/// How a body is encoded (RFC 9110 section 8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// Reads `content-encoding`. More than one encoding after another is refused: no honest server does it, and
    /// what a bomb unfolds to in the middle would not be counted.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, WireError> {
        let mut coding = Self::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let text = value.to_str().map_err(|_| malformed("the answer's content-encoding is not readable"))?;
            for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let next = match name.to_ascii_lowercase().as_str() {
                    "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    "br" => Self::Brotli,
                    "zstd" => Self::Zstd,
                    _ => return Err(malformed("the answer has a content-encoding that was not asked for")),
                };
                if coding != Self::Identity {
                    return Err(malformed("the answer is encoded more than once"));
                }
                coding = next;
            }
        }
        Ok(coding)
    }
}

fn malformed(message: &str) -> WireError {
    WireError {
        reason: Reason::ResponseMalformed,
        message: message.to_owned(),
        hint: None,
        sent: Sent::Yes,
        limit: None,
    }
}

pub(crate) fn too_large(limit: u64) -> WireError {
    WireError {
        reason: Reason::TooLarge,
        message: format!("the body of the answer is larger than {limit} bytes"),
        hint: Some("ask for less, or raise `limits.response_bytes` of the action".to_owned()),
        sent: Sent::Yes,
        limit: Some(limit),
    }
}

/// The most bytes of an encoded body that may decode to `limit`: no coding makes what it cannot compress much
/// longer. A body without end need not decode to anything: empty members of gzip do not.
fn most_encoded(limit: u64) -> u64 {
    limit.saturating_add(limit / 100).saturating_add(64 * 1024)
}

/// The decoded body; it ends with an error after `limit` bytes.
pub(crate) fn decoded(
    coding: Coding,
    body: impl Stream<Item = Chunk> + Send + 'static,
    limit: u64,
) -> Pin<Box<dyn Stream<Item = Chunk> + Send>> {
    match coding {
        Coding::Identity => limited(body, limit),
        coding => {
            let body = counted(body, most_encoded(limit), limit);
            limited(stream::once(open(coding, body)).try_flatten(), limit)
        }
    }
}

/// Reads the first bytes and puts the decoder on top. A body without any (a HEAD, a 304) is none to decode.
async fn open(
    coding: Coding,
    body: impl Stream<Item = Chunk> + Send + 'static,
) -> Result<impl Stream<Item = Chunk> + Send, WireError> {
    let mut encoded = StreamReader::new(Box::pin(body.map_err(io::Error::other)));
    let mut head = Vec::with_capacity(2);
    while head.len() < 2 {
        match encoded.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(read_error(error)),
        }
    }
    let first = head.first_chunk::<2>().copied();
    let empty = head.is_empty();
    let encoded = io::Cursor::new(head).chain(encoded);
    let decoder: Pin<Box<dyn AsyncRead + Send>> = match coding {
        _ if empty => Box::pin(tokio::io::empty()),
        Coding::Identity => Box::pin(encoded),
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(encoded);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        // The standard means zlib (RFC 1950); some servers send it without its head (RFC 1951).
        Coding::Deflate if first.is_none_or(is_zlib) => Box::pin(ZlibDecoder::new(encoded)),
        Coding::Deflate => Box::pin(DeflateDecoder::new(encoded)),
        Coding::Brotli => Box::pin(BrotliDecoder::new(encoded)),
        Coding::Zstd => {
            let window = async_compression::zstd::DParameter::window_log_max(ZSTD_WINDOW_LOG);
            let mut decoder = ZstdDecoder::with_params(encoded, &[window]);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
    };
    Ok(ReaderStream::with_capacity(decoder, CHUNK).map_err(read_error))
}

/// RFC 1950 section 2.2: method 8, window up to 32 KiB, check bits.
fn is_zlib([method, flags]: [u8; 2]) -> bool {
    method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
}

/// An error of the connection passes through the decoder as it is; all others are the decoder's own.
fn read_error(error: io::Error) -> WireError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<WireError>()) {
        Some(inner) => inner.clone(),
        None => malformed("the answer does not decode as its content-encoding says"),
    }
}

fn limited(body: impl Stream<Item = Chunk> + Send + 'static, limit: u64) -> Pin<Box<dyn Stream<Item = Chunk> + Send>> {
    counted(body, limit, limit)
}

/// The same chunks; after `most` bytes the error that the body is larger than `limit`.
fn counted(
    body: impl Stream<Item = Chunk> + Send + 'static,
    most: u64,
    limit: u64,
) -> Pin<Box<dyn Stream<Item = Chunk> + Send>> {
    Box::pin(stream::try_unfold((Box::pin(body), most), move |(mut body, left)| async move {
        let Some(chunk) = body.next().await.transpose()? else { return Ok(None) };
        let left = left.checked_sub(chunk.len() as u64).ok_or_else(|| too_large(limit))?;
        Ok(Some((chunk, (body, left))))
    }))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use async_compression::tokio::write::{BrotliEncoder, DeflateEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
    use tokio::io::{AsyncWrite, AsyncWriteExt};

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|&value| (header::CONTENT_ENCODING, value.parse().unwrap())).collect()
    }

    #[test]
    fn one_encoding_is_read_and_two_are_refused() {
        for (values, coding) in [
            (&[][..], Coding::Identity),
            (&["identity"], Coding::Identity),
            (&["GZip"], Coding::Gzip),
            (&["x-gzip"], Coding::Gzip),
            (&["deflate, identity"], Coding::Deflate),
            (&["br"], Coding::Brotli),
            (&["", "zstd"], Coding::Zstd),
        ] {
            assert_eq!(Coding::of(&headers(values)).unwrap(), coding, "{values:?}");
        }
        for values in [&["gzip, gzip"][..], &["gzip", "br"], &["compress"], &["gzîp"]] {
            assert_eq!(Coding::of(&headers(values)).unwrap_err().reason, Reason::ResponseMalformed, "{values:?}");
        }
    }

    async fn written<W: AsyncWrite + Unpin>(mut encoder: W, into: impl FnOnce(W) -> Vec<u8>, text: &[u8]) -> Vec<u8> {
        encoder.write_all(text).await.unwrap();
        encoder.shutdown().await.unwrap();
        into(encoder)
    }

    async fn encoded(text: &[u8]) -> Vec<(Coding, Vec<u8>)> {
        vec![
            (Coding::Identity, text.to_vec()),
            (Coding::Gzip, written(GzipEncoder::new(Vec::new()), GzipEncoder::into_inner, text).await),
            (Coding::Deflate, written(ZlibEncoder::new(Vec::new()), ZlibEncoder::into_inner, text).await),
            (Coding::Deflate, written(DeflateEncoder::new(Vec::new()), DeflateEncoder::into_inner, text).await),
            (Coding::Brotli, written(BrotliEncoder::new(Vec::new()), BrotliEncoder::into_inner, text).await),
            (Coding::Zstd, written(ZstdEncoder::new(Vec::new()), ZstdEncoder::into_inner, text).await),
        ]
    }

    /// Gives the bytes in chunks of `size`.
    fn chunks(bytes: &[u8], size: usize) -> impl Stream<Item = Chunk> + Send + 'static {
        let chunks: Vec<Chunk> = bytes.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        stream::iter(chunks)
    }

    async fn read(
        coding: Coding,
        body: impl Stream<Item = Chunk> + Send + 'static,
        limit: u64,
    ) -> Result<Vec<u8>, WireError> {
        decoded(coding, body, limit)
            .try_fold(Vec::new(), |mut all, chunk| async move {
                all.extend_from_slice(&chunk);
                Ok(all)
            })
            .await
    }

    #[tokio::test]
    async fn every_coding_decodes_whatever_the_chunks() {
        let text = b"{\"hello\":\"world\"}".repeat(100);
        for (coding, bytes) in encoded(&text).await {
            for size in [1, 2, 7, 100_000] {
                assert_eq!(read(coding, chunks(&bytes, size), 10_000).await.unwrap(), text, "{coding:?} by {size}");
            }
        }
    }

    #[tokio::test]
    async fn gzip_of_several_members_is_read_to_its_end() {
        let part = written(GzipEncoder::new(Vec::new()), GzipEncoder::into_inner, b"ab").await;
        assert_eq!(read(Coding::Gzip, chunks(&part.repeat(2), 5), 10).await.unwrap(), b"abab");
    }

    #[tokio::test]
    async fn limit_counts_decoded_bytes_and_is_exact() {
        for (coding, bytes) in encoded(&[b'a'; 1000]).await {
            assert_eq!(read(coding, chunks(&bytes, 10), 1000).await.unwrap().len(), 1000, "{coding:?}");
            let error = read(coding, chunks(&bytes, 10), 999).await.unwrap_err();
            assert_eq!((error.reason, error.limit, error.sent), (Reason::TooLarge, Some(999), Sent::Yes), "{coding:?}");
        }
    }

    #[tokio::test]
    async fn bomb_is_given_up_before_it_is_unfolded() {
        let bomb = written(GzipEncoder::new(Vec::new()), GzipEncoder::into_inner, &vec![0; 64 << 20]).await;
        let mut body = decoded(Coding::Gzip, chunks(&bomb, 1000), 100_000);
        let mut total = 0;
        let error = loop {
            match body.next().await.unwrap() {
                Ok(chunk) => total += chunk.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason, Reason::TooLarge);
        assert!(total <= 100_000, "{total} bytes were handed on");
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn body_without_end_that_decodes_to_nothing_is_given_up() {
        let empty = Bytes::from(written(GzipEncoder::new(Vec::new()), GzipEncoder::into_inner, b"").await);
        // Enough of them to stand for no end.
        let members = stream::repeat_with(move || Ok(empty.clone())).take(1 << 16);
        let error = read(Coding::Gzip, members, 1000).await.unwrap_err();
        assert_eq!((error.reason, error.limit, error.sent), (Reason::TooLarge, Some(1000), Sent::Yes));
    }

    /// Noise, which every coding makes longer.
    #[tokio::test]
    async fn body_that_does_not_compress_may_be_as_large_as_the_limit() {
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(1 << 20)
        .collect();
        for (coding, bytes) in encoded(&noise).await {
            let plain = read(coding, chunks(&bytes, 16 << 10), noise.len() as u64).await;
            assert!(plain.unwrap() == noise, "{coding:?}");
        }
    }

    #[tokio::test]
    async fn empty_body_is_empty_in_every_coding() {
        for coding in [Coding::Identity, Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd] {
            assert_eq!(read(coding, stream::empty(), 0).await.unwrap(), b"", "{coding:?}");
        }
    }

    #[tokio::test]
    async fn broken_and_cut_bodies_are_malformed() {
        for (coding, bytes) in encoded(&b"hello".repeat(100)).await.into_iter().skip(1) {
            let cut = read(coding, chunks(&bytes[..bytes.len() - 3], 10), 10_000).await.unwrap_err();
            assert_eq!(cut.reason, Reason::ResponseMalformed, "{coding:?}");
        }
        for coding in [Coding::Gzip, Coding::Zstd] {
            let error = read(coding, chunks(b"<html>no</html>", 4), 10_000).await.unwrap_err();
            assert_eq!(error.reason, Reason::ResponseMalformed, "{coding:?}");
        }
    }

    #[tokio::test]
    async fn error_of_the_connection_passes_through_the_decoder() {
        let (_, bytes) = encoded(&b"hello".repeat(100)).await.swap_remove(1);
        let lost = WireError { reason: Reason::Unreachable, ..malformed("lost") };
        let body = chunks(&bytes[..10], 10).chain(stream::once(async { Err(lost) }));
        assert_eq!(read(Coding::Gzip, body, 10_000).await.unwrap_err().reason, Reason::Unreachable);
    }
}
