//! Compressed bodies: decoded piece by piece, so that neither the memory nor the limit of a body depends on
//! how well it was compressed.

use std::io::{Error, ErrorKind, Result, Write};

use bytes::Bytes;
use dgx_gateway_filter::facts::ContentCoding;
use flate2::write::MultiGzDecoder;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

/// Largest window of a zstd frame, as a power of two: 8 MiB, what RFC 8878 asks every decoder to support. A frame may
/// demand up to 2 GiB otherwise.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Most decoded bytes handed over at once.
const STEP: usize = 64 * 1024;

/// Decodes one body.
pub(super) enum Decoder {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd { decoder: Box<ZstdDecoder<'static>>, between_frames: bool },
}

impl Decoder {
    pub(super) fn new(coding: ContentCoding) -> Result<Self> {
        Ok(match coding {
            ContentCoding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            ContentCoding::Zstd => {
                let mut decoder = Box::new(ZstdDecoder::new()?);
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
                Self::Zstd { decoder, between_frames: false }
            }
        })
    }

    /// Decodes a piece. What comes of it goes to `take` in steps; its error ends the decoding.
    pub(super) fn push<E: From<Error>>(
        &mut self,
        piece: &[u8],
        mut take: impl FnMut(Bytes) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        if piece.is_empty() {
            return Ok(()); // behind a frame it would begin another one
        }
        match self {
            Self::Gzip(decoder) => {
                let mut left = piece;
                while !left.is_empty() {
                    // one call decodes no more than the decoder's own buffer, whatever the piece holds
                    let read = decoder.write(left)?;
                    if read == 0 {
                        return Err(Error::from(ErrorKind::InvalidData).into());
                    }
                    left = left.get(read..).unwrap_or_default();
                    give(decoder.get_mut(), &mut take)?;
                }
                Ok(())
            }
            Self::Zstd { decoder, between_frames } => {
                let mut input = InBuffer::around(piece);
                loop {
                    if *between_frames && input.pos() < piece.len() {
                        decoder.reinit()?;
                    }
                    let mut step = vec![0; STEP];
                    let mut output = OutBuffer::around(&mut step);
                    let wanted = decoder.run(&mut input, &mut output)?;
                    let made = output.pos();
                    *between_frames = wanted == 0;
                    step.truncate(made);
                    give(&mut step, &mut take)?;
                    // a full step may have more behind it, unless the frame has ended with it
                    if input.pos() >= piece.len() && (made < STEP || *between_frames) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Hands over what the pieces so far have come to, so that nothing waits for the next one.
    pub(super) fn flush<E: From<Error>>(
        &mut self,
        mut take: impl FnMut(Bytes) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        match self {
            Self::Gzip(decoder) => {
                decoder.flush()?;
                give(decoder.get_mut(), &mut take)
            }
            Self::Zstd { .. } => Ok(()), // keeps nothing back
        }
    }

    /// The body is complete. An error means that it was cut.
    pub(super) fn finish<E: From<Error>>(
        self,
        mut take: impl FnMut(Bytes) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        match self {
            Self::Gzip(decoder) => give(&mut decoder.finish()?, &mut take),
            Self::Zstd { between_frames: true, .. } => Ok(()),
            Self::Zstd { .. } => Err(Error::from(ErrorKind::UnexpectedEof).into()),
        }
    }
}

fn give<E>(
    decoded: &mut Vec<u8>,
    take: &mut impl FnMut(Bytes) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    if decoded.is_empty() { Ok(()) } else { take(std::mem::take(decoded).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 3).unwrap()
    }

    /// The decoded body and the largest step.
    fn decode(coding: ContentCoding, body: &[u8], cut: usize) -> Result<(Vec<u8>, usize)> {
        let mut decoder = Decoder::new(coding)?;
        let (mut out, mut largest) = (Vec::new(), 0);
        let mut take = |step: Bytes| {
            largest = largest.max(step.len());
            out.extend_from_slice(&step);
            Ok::<_, Error>(())
        };
        for piece in body.chunks(cut) {
            decoder.push(piece, &mut take)?;
            decoder.push(&[], &mut take)?; // an empty piece means nothing
        }
        decoder.finish(&mut take)?;
        Ok((out, largest))
    }

    type Case = (ContentCoding, fn(&[u8]) -> Vec<u8>);
    const CASES: [Case; 2] = [(ContentCoding::Gzip, gzip), (ContentCoding::Zstd, zstd)];

    #[test]
    fn decodes_however_the_body_is_cut_and_joined() {
        let text: Vec<u8> = (0..2000).flat_map(|number: u32| number.to_string().into_bytes()).collect();
        for (coding, encode) in CASES {
            let body = encode(&text);
            for cut in [1, 7, 1000, usize::MAX] {
                assert_eq!(decode(coding, &body, cut).unwrap().0, text, "{coding:?} {cut}");
            }
            for size in [0, STEP - 1, STEP, STEP + 1, 2 * STEP] {
                let data = vec![b'x'; size];
                assert_eq!(decode(coding, &encode(&data), usize::MAX).unwrap().0, data, "{coding:?} {size}");
            }
            let two = [encode(b"{\"a\":"), encode(b"1}")].concat();
            assert_eq!(decode(coding, &two, 3).unwrap().0, b"{\"a\":1}", "{coding:?}");
        }
    }

    #[test]
    fn a_cut_or_damaged_body_is_an_error() {
        for (coding, encode) in CASES {
            let body = encode(&[b'x'; 5000]);
            for end in 0..body.len() {
                assert!(decode(coding, &body[..end], 9).is_err(), "{coding:?} cut at {end}");
            }
            assert!(decode(coding, &[&body[..], b"garbage"].concat(), 9).is_err(), "{coding:?}");
            assert!(decode(coding, b"{\"plain\": true}", 9).is_err(), "{coding:?}");
        }
    }

    #[test]
    fn a_bomb_comes_in_steps_and_can_be_stopped() {
        for (coding, encode) in CASES {
            let bomb = encode(&vec![0; 64 << 20]);
            assert!(bomb.len() < 1 << 17, "{coding:?} {}", bomb.len());
            let mut total = 0;
            let mut decoder = Decoder::new(coding).unwrap();
            let stopped = decoder.push(&bomb, |step| {
                assert!(step.len() <= 4 * STEP, "{coding:?} {}", step.len());
                total += step.len();
                if total > 1 << 20 { Err(Error::other("limit")) } else { Ok(()) }
            });
            assert!(stopped.is_err() && total <= (1 << 20) + 4 * STEP, "{coding:?} {total}");
        }
    }

    #[test]
    fn a_zstd_frame_with_a_huge_window_is_refused() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&vec![7; 1 << 20]).unwrap();
        assert!(decode(ContentCoding::Zstd, &encoder.finish().unwrap(), 4096).is_err());
    }
}
