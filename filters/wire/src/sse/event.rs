//! One event: its fields as slices of what was received.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::{memchr, memchr2};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The event as it was received, with the blank line that ends it.
    pub raw: Bytes,
    /// Value of the last `event` field, unless empty.
    pub name: Option<Bytes>,
    /// Values of the `data` fields, joined by line feeds.
    pub data: Bytes,
    /// Whether the event consists of comment lines only.
    pub is_comment: bool,
}

impl Event {
    /// Whether it came the way [`encode`] writes it: its name if it has one, one line of data, the blank line.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let data = match &self.name {
            None => Some(&*self.raw),
            Some(name) => {
                self.raw.strip_prefix(b"event: ").and_then(|raw| raw.strip_prefix(&**name)?.strip_prefix(b"\n"))
            }
        };
        let data = data.and_then(|raw| raw.strip_prefix(b"data: ")?.strip_suffix(b"\n\n"));
        data.is_some_and(|data| data == self.data && memchr(b'\n', data).is_none())
    }

    /// The event as clients get it, with `data` in place of its own: a name if it has one, one line of JSON, a blank
    /// line. A copy is made only if it came in another form.
    #[must_use]
    pub fn in_one_line(&self, data: Option<Bytes>) -> Bytes {
        if data.is_none() && self.is_plain() {
            return self.raw.clone();
        }
        let mut data = data.unwrap_or_else(|| self.data.clone());
        if data.contains(&b'\n') {
            // within a string it would be escaped
            data = data.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect();
        }
        encode(self.name.as_deref(), &data)
    }

    /// Reads the fields. `raw` holds one event as [`Framer::next_raw`](super::Framer::next_raw) gives it, without blank
    /// lines in front.
    #[must_use]
    pub fn parse(raw: Bytes) -> Self {
        let mut fields = Fields::default();
        let mut at = 0;
        while let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) {
            let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            fields.line(&raw, at, rest.get(..end).unwrap_or_default());
            at += end + 1;
        }
        let is_comment = fields.comments && !fields.others;
        Self { name: fields.name.filter(|name| !name.is_empty()), data: fields.data.into_bytes(), is_comment, raw }
    }

    /// Removes the byte order mark, which only the first event of a stream can have.
    pub(super) fn strip_mark(raw: Bytes) -> Bytes {
        if raw.starts_with(BYTE_ORDER_MARK) { raw.slice(BYTE_ORDER_MARK.len()..) } else { raw }
    }
}

/// What the lines of an event have said so far.
#[derive(Default)]
struct Fields {
    name: Option<Bytes>,
    data: Data,
    comments: bool,
    others: bool,
}

impl Fields {
    /// Takes the line that begins at `start` of `raw`; the blank halves of CRLF do no harm.
    fn line(&mut self, raw: &Bytes, start: usize, line: &[u8]) {
        let colon = memchr(b':', line);
        let field = line.get(..colon.unwrap_or(line.len())).unwrap_or_default();
        let value_at = match colon {
            Some(colon) if line.get(colon + 1) == Some(&b' ') => colon + 2,
            Some(colon) => colon + 1,
            None => line.len(),
        };
        let value = || raw.slice(start + value_at..start + line.len());
        match field {
            b"" => self.comments |= colon.is_some(),
            b"data" => self.data.push(value()),
            b"event" => self.name = Some(value()),
            _ => {}
        }
        self.others |= !field.is_empty();
    }
}

/// The data of an event: a slice as long as there is one line, a copy from the second on.
#[derive(Default)]
enum Data {
    #[default]
    None,
    One(Bytes),
    Joined(BytesMut),
}

impl Data {
    fn push(&mut self, line: Bytes) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(line),
            Self::One(first) => Self::Joined(join(BytesMut::from(&*first), &line)),
            Self::Joined(joined) => Self::Joined(join(joined, &line)),
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(line) => line,
            Self::Joined(joined) => joined.freeze(),
        }
    }
}

fn join(mut joined: BytesMut, line: &[u8]) -> BytesMut {
    joined.reserve(line.len() + 1);
    joined.put_u8(b'\n');
    joined.put_slice(line);
    joined
}

/// Writes an event with `data`: one `data` line per line of it, then the blank line.
///
/// `name` must not contain line ends.
#[must_use]
pub fn encode(name: Option<&[u8]>, data: &[u8]) -> Bytes {
    let mut event = BytesMut::with_capacity(data.len() + name.map_or(0, |name| name.len() + 8) + 8);
    if let Some(name) = name {
        event.put_slice(b"event: ");
        event.put_slice(name);
        event.put_u8(b'\n');
    }
    for line in data.split(|byte| *byte == b'\n') {
        event.put_slice(b"data: ");
        event.put_slice(line);
        event.put_u8(b'\n');
    }
    event.put_u8(b'\n');
    event.freeze()
}
