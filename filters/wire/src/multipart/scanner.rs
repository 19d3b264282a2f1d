//! The scan of a form while it arrives.

use std::ops::Range;

use super::boundary::Boundary;
use super::disposition::{self, Disposition};
use super::finder::Finder;

/// Largest header block of a part: a long file name fits many times.
const MAX_HEADERS: usize = 8 * 1024;
/// Most parts of a form, as many as common servers take.
const MAX_PARTS: usize = 1000;
/// Ends the headers of a part.
const BLANK_LINE: &[u8] = b"\r\n\r\n";

/// Why a body is no form that can be passed on. Names are those that the scanner was told to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// A boundary is followed by neither a line break nor two hyphens, or comes after half a line break: lenient
    /// parsers take that for a boundary, strict ones do not.
    #[error("a boundary is not alone on its line")]
    Boundary,
    /// A part says that its content is encoded.
    #[error("a part has a content transfer encoding")]
    Encoded,
    /// The headers of a part are malformed or ambiguous.
    #[error("the headers of a part are malformed, or without a plain name")]
    Header,
    /// The headers of a part are too long.
    #[error("the headers of a part are longer than {MAX_HEADERS} bytes")]
    HeadersTooLong,
    /// A field is sent as a file, or is no UTF-8.
    #[error("the field {0} is not plain text")]
    NotText(&'static str),
    /// A field is there twice.
    #[error("the field {0} is there more than once")]
    Repeated(&'static str),
    /// A field is longer than its limit.
    #[error("the field {0} is too long")]
    TooLong(&'static str),
    /// There are too many parts.
    #[error("there are more than {MAX_PARTS} parts")]
    TooManyParts,
    /// The body ends before its last boundary.
    #[error("the last boundary is missing")]
    Truncated,
}

/// A text field that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Where the value stands in the body.
    pub range: Range<usize>,
}

/// The part that holds the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name, if it has one.
    pub name: Option<String>,
}

/// What is known of a form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    names: Vec<&'static str>,
    fields: Vec<Field>,
    file: Option<File>,
    start: Option<usize>,
}

impl Form {
    /// Where the first boundary stands: its hyphens, behind the line break before it.
    #[must_use]
    pub fn start(&self) -> Option<usize> {
        self.start
    }

    /// A field whose value is complete.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// All fields whose values are complete, in order.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The value of a field, if it is complete.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.field(name).map(|field| field.value.as_str())
    }

    /// Whether a field has begun.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// The file, as soon as its headers are there.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }
}

/// What a scanner looks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Name of the part that is the file.
    pub file: &'static str,
    /// Names of text fields, each with the most bytes of its value.
    pub fields: &'static [(&'static str, usize)],
}

/// Scans one form.
#[derive(Debug)]
pub struct Scanner {
    wanted: Wanted,
    finder: Finder,
    /// Find boundaries after half a line break.
    impostors: [Finder; 2],
    delimiter: Vec<u8>,
    form: Form,
    state: State,
    /// Place in the body.
    at: usize,
    parts: usize,
    failed: Option<FormError>,
}

#[derive(Debug)]
enum State {
    /// Before the first boundary.
    Preamble,
    /// Behind a boundary, with the bytes so far.
    Line(Vec<u8>),
    /// Inside the headers of a part, with the bytes so far.
    Headers(Vec<u8>),
    /// Inside a part that nobody looks for.
    Passing,
    /// Inside a field that is looked for.
    Value { name: &'static str, limit: usize, start: usize, value: Vec<u8> },
    /// Behind the last boundary.
    Epilogue,
}

impl Scanner {
    /// At the start of a body.
    #[must_use]
    pub fn new(boundary: &Boundary, wanted: Wanted) -> Self {
        let delimiter = boundary.delimiter();
        let mut finder = Finder::new(&delimiter);
        finder.begin_with(2); // the first boundary may stand at the very start, without a line break before it
        let hyphens = delimiter.get(2..).unwrap_or_default();
        let impostors = [b"\n", b"\r"].map(|half| Finder::new(&[half, hyphens].concat()));
        let form = Form::default();
        Self { wanted, finder, impostors, delimiter, form, state: State::Preamble, at: 0, parts: 0, failed: None }
    }

    /// What is known so far.
    #[must_use]
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// The body is no form that can be passed on; every further call says the same.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), FormError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !piece.is_empty() {
            let used = self.step(piece).inspect_err(|error| self.failed = Some(*error))?;
            self.at += used;
            piece = piece.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// It has failed before, or its last boundary is missing.
    pub fn finish(&self) -> Result<(), FormError> {
        match (self.failed, &self.state) {
            (Some(error), _) => Err(error),
            (None, State::Epilogue) => Ok(()),
            (None, _) => Err(FormError::Truncated),
        }
    }

    /// Looks at a piece; gives how many of its bytes were used, at least one.
    fn step(&mut self, piece: &[u8]) -> Result<usize, FormError> {
        match &mut self.state {
            State::Epilogue => Ok(piece.len()),
            State::Line(line) => {
                line.extend_from_slice(piece.get(..1).unwrap_or_default());
                match line.as_slice() {
                    b"\r" | b"-" => {}
                    b"\r\n" => self.state = State::Headers(Vec::new()),
                    b"--" => self.state = State::Epilogue,
                    _ => return Err(FormError::Boundary),
                }
                Ok(1)
            }
            State::Headers(_) => self.headers(piece),
            State::Passing | State::Preamble | State::Value { .. } => self.content(piece),
        }
    }

    fn headers(&mut self, piece: &[u8]) -> Result<usize, FormError> {
        let State::Headers(block) = &mut self.state else { return Ok(piece.len()) };
        let before = block.len();
        block.extend_from_slice(piece.get(..piece.len().min(MAX_HEADERS + BLANK_LINE.len() - before)).unwrap_or(piece));
        let from = before.saturating_sub(BLANK_LINE.len() - 1);
        let found = memchr::memmem::find(block.get(from..).unwrap_or_default(), BLANK_LINE).map(|at| from + at);
        let Some(end) = found else {
            return if block.len() >= MAX_HEADERS + BLANK_LINE.len() {
                Err(FormError::HeadersTooLong)
            } else {
                Ok(piece.len())
            };
        };
        let used = end + BLANK_LINE.len() - before;
        let headers = disposition::read(block.get(..end).unwrap_or_default())?;
        self.part(headers, self.at + used)?;
        Ok(used)
    }

    /// A part begins, with its content at `start`.
    fn part(&mut self, headers: Disposition, start: usize) -> Result<(), FormError> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(FormError::TooManyParts);
        }
        if headers.encoded {
            return Err(FormError::Encoded);
        }
        self.state = State::Passing;
        if headers.name == self.wanted.file {
            if self.form.file.replace(File { name: headers.file_name }).is_some() {
                return Err(FormError::Repeated(self.wanted.file));
            }
        } else if let Some((name, limit)) = self.wanted.fields.iter().find(|(name, _)| *name == headers.name) {
            if self.form.has(name) {
                return Err(FormError::Repeated(name));
            }
            if headers.file_name.is_some() {
                return Err(FormError::NotText(name));
            }
            self.form.names.push(name);
            self.state = State::Value { name, limit: *limit, start, value: Vec::new() };
        }
        Ok(())
    }

    fn content(&mut self, piece: &[u8]) -> Result<usize, FormError> {
        let mut found = self.finder.look(piece);
        let ends = found.ends.unwrap_or(usize::MAX);
        let impostor = self.impostors.iter_mut().filter_map(|impostor| impostor.look(piece).ends).min();
        // every real boundary ends like one after half a line break
        let impostor = impostor.filter(|impostor| *impostor < ends);
        if let Some(impostor) = impostor {
            found.content = found.content.min(impostor - 1);
        }
        if let State::Value { name, limit, value, .. } = &mut self.state {
            value.extend_from_slice(self.delimiter.get(..found.released).unwrap_or_default());
            let room = (*limit + 1).saturating_sub(value.len());
            value.extend_from_slice(piece.get(..found.content.min(room)).unwrap_or_default());
            if value.len() > *limit {
                return Err(FormError::TooLong(name));
            }
        }
        if impostor.is_some() {
            return Err(FormError::Boundary);
        }
        let Some(ends) = found.ends else { return Ok(piece.len()) };
        self.impostors.iter_mut().for_each(|impostor| impostor.begin_with(0));
        let state = std::mem::replace(&mut self.state, State::Line(Vec::new()));
        if matches!(state, State::Preamble) {
            // at the very start of a body the line break is only thought of
            self.form.start = (self.at + ends + 2).checked_sub(self.delimiter.len());
        }
        if let State::Value { name, start, value, .. } = state {
            let value = String::from_utf8(value).map_err(|_| FormError::NotText(name))?;
            self.form.fields.push(Field { name, value, range: start..self.at + ends - self.delimiter.len() });
        }
        Ok(ends)
    }
}
