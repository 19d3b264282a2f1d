//! The JSON grammar as a machine that is fed chunk by chunk and tells a [`Sink`] what it meets.
//!
//! It accepts exactly what `serde_json` reads into a tree: RFC 8259 without byte order mark, strings of valid
//! UTF-8 with paired surrogates, numbers within the range of 64-bit floating point, limited nesting.

use super::error::{ScanError, ScanErrorKind};
use super::number::{Number, Step};
use super::text::{Read, Text};

/// Deepest nesting of arrays and objects that is read; the limit of `serde_json`.
pub const MAX_DEPTH: usize = 127;

/// The kinds of JSON values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is its own description")]
pub enum Kind {
    Array,
    Bool,
    Null,
    Number,
    Object,
    String,
}

/// What the machine tells, in document order. Offsets count from the first byte of the document.
pub(super) trait Sink {
    /// A value begins; for a string `at` is its quote.
    fn begin(&mut self, _kind: Kind, _at: usize) -> Result<(), ScanErrorKind> {
        Ok(())
    }

    /// The innermost open value ends before `at`; a number says whether it is an integer literal.
    fn end(&mut self, _kind: Kind, _at: usize, _is_integer: bool) {}

    /// A member name begins; `at` is its quote.
    fn name(&mut self, _at: usize) {}

    /// The member name ends before `at`.
    fn name_end(&mut self, _at: usize) -> Result<(), ScanErrorKind> {
        Ok(())
    }

    /// Content of the open string or name, unescaped, in pieces of whole characters.
    fn text(&mut self, _piece: &[u8]) {}
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// After a value inside a container: `,` or its end.
    AfterValue,
    Colon,
    /// After the outermost value: whitespace alone.
    Done,
    /// After `[`: a value or the end.
    FirstElement,
    /// After `{`: a name or the end.
    FirstName,
    Literal {
        kind: Kind,
        rest: &'static [u8],
    },
    /// After `,` in an object.
    Name,
    NameText,
    Number(Number),
    Text,
    Value,
}

/// The machine: a state, one bit per open container, and the string reader.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    state: State,
    text: Text,
    /// Innermost container in the lowest bit; set for an object.
    objects: u128,
    depth: usize,
    /// Bytes taken by earlier calls.
    taken: usize,
    /// Start of the number or name being read.
    token_at: usize,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self { state: State::Value, text: Text::default(), objects: 0, depth: 0, taken: 0, token_at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    /// Reads a chunk. After an error the machine must not be used again.
    pub(super) fn push(&mut self, chunk: &[u8], sink: &mut impl Sink) -> Result<(), ScanError> {
        let mut rest = chunk;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = match self.state {
                State::NameText | State::Text => self.string(rest, sink)?,
                State::Number(number) => self.number(number, rest, sink)?,
                _ => {
                    self.byte(byte, sink).map_err(|kind| ScanError { offset: self.taken, kind })?;
                    self.taken += 1;
                    behind
                }
            };
        }
        Ok(())
    }

    /// Ends the document.
    pub(super) fn finish(&mut self, sink: &mut impl Sink) -> Result<(), ScanError> {
        if let State::Number(number) = self.state
            && self.depth == 0
            && number.is_complete()
        {
            self.end_number(number, sink)?;
        }
        match self.state {
            State::Done => Ok(()),
            _ => Err(ScanError { offset: self.taken, kind: ScanErrorKind::Truncated }),
        }
    }

    fn string<'a>(&mut self, rest: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], ScanError> {
        let read = self
            .text
            .read(rest, &mut |piece| sink.text(piece))
            .map_err(|fault| ScanError { offset: self.taken.saturating_add_signed(fault.at), kind: fault.kind })?;
        let Read::Closed(len) = read else {
            self.taken += rest.len();
            return Ok(&[]);
        };
        self.taken += len;
        if matches!(self.state, State::NameText) {
            self.state = State::Colon;
            sink.name_end(self.taken).map_err(|kind| ScanError { offset: self.token_at, kind })?;
        } else {
            sink.end(Kind::String, self.taken, false);
            self.close_value();
        }
        Ok(rest.get(len..).unwrap_or_default())
    }

    fn number<'a>(&mut self, mut number: Number, rest: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], ScanError> {
        for (at, &byte) in rest.iter().enumerate() {
            match number.step(byte) {
                Step::Bad => return Err(ScanError { offset: self.taken + at, kind: ScanErrorKind::Syntax }),
                Step::Ended => {
                    self.taken += at;
                    self.end_number(number, sink)?;
                    return Ok(rest.get(at..).unwrap_or_default());
                }
                Step::Taken => {}
            }
        }
        self.taken += rest.len();
        self.state = State::Number(number);
        Ok(&[])
    }

    fn end_number(&mut self, number: Number, sink: &mut impl Sink) -> Result<(), ScanError> {
        if !number.is_in_range() {
            return Err(ScanError { offset: self.token_at, kind: ScanErrorKind::NumberOutOfRange });
        }
        sink.end(Kind::Number, self.taken, number.is_integer());
        self.close_value();
        Ok(())
    }

    /// Takes a byte outside of strings and numbers.
    fn byte(&mut self, byte: u8, sink: &mut impl Sink) -> Result<(), ScanErrorKind> {
        if let State::Literal { kind, rest } = self.state {
            return self.literal(kind, rest, byte, sink);
        }
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Ok(());
        }
        match (self.state, byte) {
            (State::Value | State::FirstElement, b'"') => {
                sink.begin(Kind::String, self.taken)?;
                self.state = State::Text;
            }
            (State::FirstElement, b']') => self.close(Kind::Array, sink),
            (State::Value | State::FirstElement, b'{') => self.open(Kind::Object, sink)?,
            (State::Value | State::FirstElement, b'[') => self.open(Kind::Array, sink)?,
            (State::Value | State::FirstElement, _) => self.scalar(byte, sink)?,
            (State::FirstName | State::Name, b'"') => {
                sink.name(self.taken);
                self.token_at = self.taken;
                self.state = State::NameText;
            }
            (State::Colon, b':') => self.state = State::Value,
            (State::AfterValue, b',') if self.is_in_object() => self.state = State::Name,
            (State::AfterValue, b',') => self.state = State::Value,
            (State::FirstName, b'}') => self.close(Kind::Object, sink),
            (State::AfterValue, b'}') if self.is_in_object() => self.close(Kind::Object, sink),
            (State::AfterValue, b']') if !self.is_in_object() => self.close(Kind::Array, sink),
            _ => return Err(ScanErrorKind::Syntax),
        }
        Ok(())
    }

    fn scalar(&mut self, byte: u8, sink: &mut impl Sink) -> Result<(), ScanErrorKind> {
        let (kind, rest): (_, &'static [u8]) = match byte {
            b't' => (Kind::Bool, b"rue"),
            b'f' => (Kind::Bool, b"alse"),
            b'n' => (Kind::Null, b"ull"),
            _ => {
                let number = Number::start(byte).ok_or(ScanErrorKind::Syntax)?;
                sink.begin(Kind::Number, self.taken)?;
                self.token_at = self.taken;
                self.state = State::Number(number);
                return Ok(());
            }
        };
        sink.begin(kind, self.taken)?;
        self.state = State::Literal { kind, rest };
        Ok(())
    }

    fn literal(
        &mut self,
        kind: Kind,
        rest: &'static [u8],
        byte: u8,
        sink: &mut impl Sink,
    ) -> Result<(), ScanErrorKind> {
        let Some((_, rest)) = rest.split_first().filter(|(expected, _)| **expected == byte) else {
            return Err(ScanErrorKind::Syntax);
        };
        if rest.is_empty() {
            sink.end(kind, self.taken + 1, false);
            self.close_value();
        } else {
            self.state = State::Literal { kind, rest };
        }
        Ok(())
    }

    fn open(&mut self, kind: Kind, sink: &mut impl Sink) -> Result<(), ScanErrorKind> {
        sink.begin(kind, self.taken)?;
        if self.depth == MAX_DEPTH {
            return Err(ScanErrorKind::TooDeep);
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(kind == Kind::Object);
        self.state = if kind == Kind::Object { State::FirstName } else { State::FirstElement };
        Ok(())
    }

    fn close(&mut self, kind: Kind, sink: &mut impl Sink) {
        self.depth = self.depth.saturating_sub(1);
        self.objects >>= 1;
        sink.end(kind, self.taken + 1, false);
        self.close_value();
    }

    fn close_value(&mut self) {
        self.state = if self.depth == 0 { State::Done } else { State::AfterValue };
    }

    fn is_in_object(&self) -> bool {
        self.objects & 1 == 1
    }
}
