//! Compressed answers of upstreams that were asked for plain ones: decoded before anything looks at them.

use std::io::{Error, Result};

use bytes::Bytes;
use dgx_gateway_filter::facts::ContentCoding;
use dgx_gateway_filter::{ErrorCode, FilterError, ResponseHead};
use http::header;

use super::collector::Collector;
use super::decode::Decoder;

/// Most that one piece of a streaming answer may become: a piece has at most 64 KiB, and no text is that repetitive.
pub(super) const MAX_PIECE_BYTES: usize = 16 * 1024 * 1024;

/// The answer came in a coding that cannot be read here, or in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnknownCoding;

/// A compressed answer on its way.
pub(super) struct Compressed {
    coding: ContentCoding,
    /// Made at the first byte: an answer without a body is complete.
    decoder: Option<Decoder>,
}

impl Compressed {
    /// Takes the coding out of a head, together with the length, which is that of the compressed bytes.
    pub(super) fn of(head: &mut ResponseHead) -> std::result::Result<Option<Self>, UnknownCoding> {
        let mut codings = Vec::new();
        for value in head.headers.get_all(header::CONTENT_ENCODING) {
            let names = value.to_str().map_err(|_| UnknownCoding)?.split(',').map(str::trim);
            codings.extend(names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity")));
        }
        let coding = match codings.as_slice() {
            [] => None,
            [name] if ["gzip", "x-gzip"].iter().any(|gzip| gzip.eq_ignore_ascii_case(name)) => {
                Some(ContentCoding::Gzip)
            }
            [name] if name.eq_ignore_ascii_case("zstd") => Some(ContentCoding::Zstd),
            _ => return Err(UnknownCoding),
        };
        head.headers.remove(header::CONTENT_ENCODING);
        if coding.is_some() {
            head.length = None;
        }
        Ok(coding.map(|coding| Self { coding, decoder: None }))
    }

    /// Decodes a piece, to at most so many bytes. What there is with an error came before the damage.
    pub(super) fn decode(&mut self, piece: Bytes, end: bool, most: usize) -> (Bytes, Result<()>) {
        let mut out = Collector::default();
        let decoded = self.push(piece, end, |mut step| {
            let room = most.saturating_sub(out.len());
            let fits = step.len() <= room;
            step.truncate(room);
            out.push(step);
            if fits { Ok(()) } else { Err(too_much()) }
        });
        (out.into_bytes(), decoded)
    }

    /// Decodes a piece; what comes of it goes to `take` in steps, whose error ends the decoding.
    pub(super) fn push(&mut self, piece: Bytes, end: bool, mut take: impl FnMut(Bytes) -> Result<()>) -> Result<()> {
        if !piece.is_empty() {
            let decoder = match &mut self.decoder {
                Some(decoder) => decoder,
                none => none.insert(Decoder::new(self.coding)?),
            };
            decoder.push(&piece, &mut take)?;
            decoder.flush(&mut take)?;
        }
        match self.decoder.take_if(|_| end) {
            Some(decoder) => decoder.finish(take),
            None => Ok(()),
        }
    }
}

/// An answer becomes larger than it may.
pub(super) fn too_much() -> Error {
    Error::other("too much")
}

/// What is said of an answer that is not what its coding says.
pub(super) fn damaged() -> FilterError {
    FilterError::upstream(ErrorCode::UpstreamError, "The upstream answer could not be used.")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;

    fn head(codings: &[&str]) -> ResponseHead {
        let mut headers = HeaderMap::new();
        for coding in codings {
            headers.append(header::CONTENT_ENCODING, HeaderValue::from_str(coding).unwrap());
        }
        ResponseHead { status: StatusCode::OK, headers, length: Some(9) }
    }

    #[test]
    fn reads_the_coding_of_a_head() {
        for (codings, expected) in [
            (&[][..], Ok(None)),
            (&["identity"], Ok(None)),
            (&["GZip"], Ok(Some(ContentCoding::Gzip))),
            (&["identity", "x-gzip"], Ok(Some(ContentCoding::Gzip))),
            (&["zstd"], Ok(Some(ContentCoding::Zstd))),
            (&["br"], Err(UnknownCoding)),
            (&["gzip, gzip"], Err(UnknownCoding)),
            (&["gzip", "zstd"], Err(UnknownCoding)),
        ] {
            let mut head = head(codings);
            let found = Compressed::of(&mut head).map(|found| found.map(|found| found.coding));
            assert_eq!(found, expected, "{codings:?}");
            if let Ok(coding) = expected {
                assert!(head.headers.is_empty());
                assert_eq!(head.length, coding.is_none().then_some(9), "{codings:?}");
            }
        }
    }

    /// Two events, each of which was flushed when it was written, and where the first one ends.
    fn stream(coding: ContentCoding) -> (Vec<u8>, usize) {
        match coding {
            ContentCoding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(b"data: 1\n\n").unwrap();
                encoder.flush().unwrap();
                let first = encoder.get_ref().len();
                encoder.write_all(b"data: 2\n\n").unwrap();
                (encoder.finish().unwrap(), first)
            }
            ContentCoding::Zstd => {
                let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
                encoder.write_all(b"data: 1\n\n").unwrap();
                encoder.flush().unwrap();
                let first = encoder.get_ref().len();
                encoder.write_all(b"data: 2\n\n").unwrap();
                (encoder.finish().unwrap(), first)
            }
        }
    }

    #[test]
    fn an_event_comes_out_with_its_last_byte_wherever_the_stream_is_cut() {
        for coding in [ContentCoding::Gzip, ContentCoding::Zstd] {
            let (stream, first) = stream(coding);
            for cut in 1..stream.len() {
                let mut compressed = Compressed { coding, decoder: None };
                let mut out = Vec::new();
                let mut at = 0;
                for piece in stream.chunks(cut) {
                    at += piece.len();
                    let (decoded, result) = compressed.decode(Bytes::copy_from_slice(piece), false, MAX_PIECE_BYTES);
                    result.unwrap();
                    out.extend(decoded);
                    assert!(at < first || out.starts_with(b"data: 1\n\n"), "{coding:?} {cut}: {at}");
                }
                let (rest, result) = compressed.decode(Bytes::new(), true, MAX_PIECE_BYTES);
                result.unwrap();
                out.extend(rest);
                assert_eq!(out, b"data: 1\n\ndata: 2\n\n");
            }
        }
    }

    #[test]
    fn damage_is_told_after_what_came_before_it() {
        for coding in [ContentCoding::Gzip, ContentCoding::Zstd] {
            let (stream, first) = stream(coding);
            let mut compressed = Compressed { coding, decoder: None };
            let (decoded, result) = compressed.decode(Bytes::copy_from_slice(&stream[..first]), true, MAX_PIECE_BYTES);
            assert!(result.is_err(), "cut");
            assert_eq!(decoded, "data: 1\n\n");
            let mut compressed = Compressed { coding, decoder: None };
            let plain = Bytes::from_static(b"data: 1\n\n");
            assert!(compressed.decode(plain, true, MAX_PIECE_BYTES).1.is_err(), "not compressed");
            assert!(Compressed { coding, decoder: None }.decode(Bytes::new(), true, 0).1.is_ok(), "no body");
        }
    }

    #[test]
    fn a_piece_becomes_no_more_than_its_limit() {
        for most in [0, 1, 99_999, 100_000] {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(&vec![b'x'; 100_000]).unwrap();
            let mut compressed = Compressed { coding: ContentCoding::Gzip, decoder: None };
            let (decoded, result) = compressed.decode(encoder.finish().unwrap().into(), true, most);
            assert_eq!((decoded.len(), result.is_ok()), (most, most == 100_000));
        }
    }
}
