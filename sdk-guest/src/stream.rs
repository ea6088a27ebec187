//! Bodies that come and go chunk by chunk.

use std::io::{self, Cursor, Read, Write};

use crate::{
    Error, Result,
    http::{Exchange, Headers, Response, ResponseHead},
};

/// How much is asked for at once where the caller does not say, bytes.
const CHUNK: u32 = 64 << 10;

/// A request whose body is being written; [`Upload::finish`] brings the response.
#[derive(Debug)]
#[must_use = "the response comes with `finish`"]
pub struct Upload {
    exchange: Exchange,
}

impl Upload {
    pub(crate) fn new(exchange: Exchange) -> Self {
        Self { exchange }
    }

    /// Ends the body and waits for the head of the response.
    ///
    /// # Errors
    /// [`Error::Http`] with what the host or the network has against it.
    pub fn finish(self) -> Result<Download> {
        let ResponseHead { status, headers } = self.exchange.finish()?;
        Ok(Download { status, headers, exchange: self.exchange, rest: Cursor::default() })
    }
}

impl Write for Upload {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        self.exchange.write(chunk)?;
        Ok(chunk.len())
    }

    /// Does nothing: the host passes chunks on as they come.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A response whose body is being read.
#[derive(Debug)]
pub struct Download {
    /// The HTTP status.
    pub status: u16,
    /// The headers, without those that concern the connection or the encoding.
    pub headers: Headers,
    exchange: Exchange,
    /// What a chunk held more than the reader had room for.
    rest: Cursor<Vec<u8>>,
}

impl Download {
    /// The next chunk of the body, as it came; `None` at its end.
    ///
    /// # Errors
    /// [`Error::Http`] with what the host or the network has against it.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let mut rest = Vec::new();
        self.rest.read_to_end(&mut rest)?;
        if rest.is_empty() { Ok(self.exchange.read(CHUNK)?) } else { Ok(Some(rest)) }
    }

    /// Reads the rest of the body and returns it as one response.
    ///
    /// # Errors
    /// [`Error::Http`] with what the host or the network has against it.
    pub fn into_response(mut self) -> Result<Response> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk()? {
            body.extend_from_slice(&chunk);
        }
        Ok(Response { status: self.status, headers: self.headers, body })
    }

    /// The download itself where the status is 200 to 299, else what the response means as a failure, for which
    /// its body is read.
    ///
    /// # Errors
    /// Any other status.
    pub fn error_for_status(self) -> Result<Self> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        Err(Error::Failed(self.into_response()?.failure()))
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.rest.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let max = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
            match self.exchange.read(max)? {
                Some(chunk) => self.rest = Cursor::new(chunk),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{SendError, SendErrorKind, testing::FakeHost};

    #[test]
    fn chunks_written_arrive_and_chunks_sent_are_read() {
        let host = FakeHost::new();
        host.on("PUT", "/file").respond(200, "0123456789".as_bytes());
        let connection = host.connection();
        let mut upload = connection.put("/file").length(6).start().unwrap();
        upload.write_all(b"abc").unwrap();
        upload.write_all(b"def").unwrap();
        let mut download = upload.finish().unwrap().error_for_status().unwrap();
        let mut buffer = [0; 4];
        download.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"0123");
        assert_eq!(download.into_response().unwrap().body, b"456789");
        assert_eq!(host.requests()[0].body.as_deref(), Some(b"abcdef".as_slice()));
    }

    #[test]
    fn body_that_was_set_is_written_first() {
        let host = FakeHost::new();
        host.on("PUT", "/file").respond(200, ());
        let mut upload = host.connection().put("/file").body("ab").length(4).start().unwrap();
        upload.write_all(b"cd").unwrap();
        let _ = upload.finish().unwrap();
        assert_eq!(host.requests()[0].body.as_deref(), Some(b"abcd".as_slice()));
    }

    #[test]
    #[should_panic(expected = "wrote 4 bytes of a body that it declared as 2 bytes long")]
    fn body_that_was_set_is_the_whole_body_unless_a_length_says_more() {
        let host = FakeHost::new();
        let mut upload = host.connection().put("/file").body("ab").start().unwrap();
        let _ = upload.write_all(b"cd");
    }

    #[test]
    fn failed_download_tells_the_body_and_a_send_error_keeps_its_kind() {
        let host = FakeHost::new();
        host.on("GET", "/file").respond(404, serde_json::json!({"message": "gone"}));
        let error = host.connection().get("/file").start().unwrap().finish().unwrap().error_for_status().unwrap_err();
        assert_eq!(error.to_string(), "the API answered 404: gone (not-found)");

        let refused = SendError::new(SendErrorKind::TooLarge { limit: 5 }, "too-large", "too large");
        host.on("GET", "/large").fail(refused.clone());
        let error = host.connection().get("/large").start().unwrap().finish().unwrap_err();
        assert_eq!(error, Error::Http(refused));
    }
}
