//! String content: finds its end, checks its UTF-8, and hands it out unescaped in pieces.

use super::error::ScanErrorKind;
use super::run;

/// Largest piece handed out at once, so that a second look at it still finds it in the nearest cache.
const PIECE: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// After a backslash.
    Escape,
    /// Inside `\uXXXX`: the digits so far, and the leading surrogate that stands before, else zero.
    Hex { digits: u8, unit: u16, high: u16 },
    /// After a leading surrogate, where `\` has to follow.
    LowBackslash { high: u16 },
    /// After a leading surrogate and `\`, where `u` has to follow.
    LowLetter { high: u16 },
    #[default]
    Plain,
    /// Inside a UTF-8 sequence that the end of a block or chunk cut: its first bytes.
    Sequence { bytes: [u8; 4], len: u8 },
}

/// Reads one string after another, from the byte behind the opening quote.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Text {
    place: Place,
}

/// How far one call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// The closing quote was the last of this many bytes.
    Closed(usize),
    /// All bytes are content.
    Open,
}

/// Where in the given bytes the string went wrong. Negative for a sequence that began in an earlier call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: isize,
    pub(super) kind: ScanErrorKind,
}

impl Text {
    /// Reads on; `emit` gets the content in pieces of whole characters.
    pub(super) fn read(&mut self, bytes: &[u8], emit: &mut impl FnMut(&[u8])) -> Result<Read, Fault> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && let Some(&byte) = rest.first()
        {
            if self.place != Place::Plain {
                self.step(byte, emit).map_err(|kind| self.fault(at, kind))?;
                at += 1;
                continue;
            }
            let block = rest.get(..PIECE).unwrap_or(rest);
            let plain = run::ascii_text(block);
            if plain > 0 {
                emit(block.get(..plain).unwrap_or_default());
                at += plain;
                continue;
            }
            at += match byte {
                b'"' => return Ok(Read::Closed(at + 1)),
                b'\\' => {
                    self.place = Place::Escape;
                    1
                }
                0x80.. => self.wide(block, emit).map_err(|valid| Fault {
                    at: isize::try_from(at + valid).unwrap_or(isize::MAX),
                    kind: ScanErrorKind::Utf8,
                })?,
                _ => return Err(self.fault(at, ScanErrorKind::ControlCharacter)),
            };
        }
        Ok(Read::Open)
    }

    /// Reads a run that starts with a non-ASCII character; gives the bytes taken, or where the bad sequence starts.
    fn wide(&mut self, block: &[u8], emit: &mut impl FnMut(&[u8])) -> Result<usize, usize> {
        let len = run::text(block);
        let content = block.get(..len).unwrap_or_default();
        let Err(error) = simdutf8::compat::from_utf8(content) else {
            emit(content);
            return Ok(len);
        };
        let valid = error.valid_up_to();
        if error.error_len().is_some() {
            return Err(valid);
        }
        emit(content.get(..valid).unwrap_or_default());
        // the end of the block or of the string cuts the sequence; the next byte tells which
        let mut sequence = ([0; 4], 0);
        for (slot, &byte) in sequence.0.iter_mut().zip(content.iter().skip(valid)) {
            *slot = byte;
            sequence.1 += 1;
        }
        self.place = Place::Sequence { bytes: sequence.0, len: sequence.1 };
        Ok(len)
    }

    /// Takes one byte of an escape or of a cut sequence.
    fn step(&mut self, byte: u8, emit: &mut impl FnMut(&[u8])) -> Result<(), ScanErrorKind> {
        self.place = match self.place {
            Place::Plain => Place::Plain,
            Place::Escape if byte == b'u' => Place::Hex { digits: 0, unit: 0, high: 0 },
            Place::Escape => {
                emit(&[simple_escape(byte).ok_or(ScanErrorKind::Escape)?]);
                Place::Plain
            }
            Place::Hex { digits, unit, high } => hex(byte, digits, unit, high, emit).ok_or(ScanErrorKind::Escape)?,
            Place::LowBackslash { high } if byte == b'\\' => Place::LowLetter { high },
            Place::LowLetter { high } if byte == b'u' => Place::Hex { digits: 0, unit: 0, high },
            Place::LowBackslash { .. } | Place::LowLetter { .. } => return Err(ScanErrorKind::Escape),
            Place::Sequence { mut bytes, len } => {
                if let Some(slot) = bytes.get_mut(usize::from(len)) {
                    *slot = byte;
                }
                let sequence = bytes.get(..=usize::from(len)).unwrap_or_default();
                match std::str::from_utf8(sequence) {
                    Ok(_) => {
                        emit(sequence);
                        Place::Plain
                    }
                    Err(error) if error.error_len().is_none() => Place::Sequence { bytes, len: len + 1 },
                    Err(_) => return Err(ScanErrorKind::Utf8),
                }
            }
        };
        Ok(())
    }

    fn fault(&self, at: usize, kind: ScanErrorKind) -> Fault {
        let at = isize::try_from(at).unwrap_or(isize::MAX);
        match (self.place, kind) {
            (Place::Sequence { len, .. }, ScanErrorKind::Utf8) => {
                Fault { at: at - isize::from(i8::try_from(len).unwrap_or(0)), kind }
            }
            _ => Fault { at, kind },
        }
    }
}

fn simple_escape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\\' | b'/' => byte,
        b'b' => 0x08,
        b'f' => 0x0C,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

/// Takes a hexadecimal digit; the fourth one completes a character or a leading surrogate.
fn hex(byte: u8, digits: u8, unit: u16, high: u16, emit: &mut impl FnMut(&[u8])) -> Option<Place> {
    let unit = unit << 4 | u16::try_from(char::from(byte).to_digit(16)?).ok()?;
    if digits < 3 {
        return Some(Place::Hex { digits: digits + 1, unit, high });
    }
    let code = match (high, unit) {
        (0, 0xD800..=0xDBFF) => return Some(Place::LowBackslash { high: unit }),
        (0, _) => u32::from(unit),
        (_, 0xDC00..=0xDFFF) => 0x1_0000 + (u32::from(high - 0xD800) << 10 | u32::from(unit - 0xDC00)),
        _ => return None,
    };
    emit(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
    Some(Place::Plain)
}
