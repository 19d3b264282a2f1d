//! Where the parts of a YAML document stand in its text.

use std::ops::Range;

use saphyr_parser::{Event, Parser, Span, StrInput};

/// Deeper nesting is not followed; a tokens file has five levels.
const MAX_DEPTH: usize = 32;

/// A value and its place, in bytes. A block collection ends with its last value; comments behind it are not in it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) shape: Shape,
}

#[derive(Debug)]
pub(super) enum Shape {
    /// A scalar or an alias.
    Leaf,
    Mapping(Vec<(String, Node)>),
    Sequence(Vec<Node>),
}

impl Node {
    /// The value of a key.
    pub(super) fn key(&self, name: &str) -> Option<&Self> {
        let Shape::Mapping(entries) = &self.shape else { return None };
        entries.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Option<&[Self]> {
        match &self.shape {
            Shape::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// Whether the collection is written with brackets.
    pub(super) fn is_flow(&self, text: &str) -> bool {
        matches!(text.as_bytes().get(self.span.start), Some(b'[' | b'{'))
    }
}

/// The tree of the only document of a text; `None` when there is none, or it is beyond what is followed here.
pub(super) fn tree(text: &str) -> Option<Node> {
    let mut offsets: Vec<usize> = text.char_indices().map(|(offset, _)| offset).collect();
    offsets.push(text.len());
    let mut reader = Reader { text, parser: Parser::new_from_str(text), offsets };
    loop {
        match reader.next()? {
            (Event::DocumentStart(_), _) => {
                let (event, span) = reader.next()?;
                return reader.node(&event, span, 0);
            }
            (Event::StreamEnd, _) => return None,
            _ => {}
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    parser: Parser<'t, StrInput<'t>>,
    /// Byte offset of every character; the parser counts characters.
    offsets: Vec<usize>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Option<(Event<'t>, Range<usize>)> {
        let (event, span) = self.parser.next_event()?.ok()?;
        Some((event, self.bytes(span)?))
    }

    fn bytes(&self, span: Span) -> Option<Range<usize>> {
        Some(*self.offsets.get(span.start.index())?..*self.offsets.get(span.end.index())?)
    }

    fn node(&mut self, event: &Event<'t>, span: Range<usize>, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            return None;
        }
        match event {
            Event::Alias(_) | Event::Scalar(..) => Some(Node { span, shape: Shape::Leaf }),
            Event::MappingStart(..) => self.mapping(&span, depth),
            Event::SequenceStart(..) => self.sequence(&span, depth),
            _ => None,
        }
    }

    fn mapping(&mut self, start: &Range<usize>, depth: usize) -> Option<Node> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut last = start.end;
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => {
                    let span = start.start..self.end(start.start, last)?;
                    return Some(Node { span, shape: Shape::Mapping(entries) });
                }
                Event::Scalar(key, ..) => key.into_owned(),
                _ => return None,
            };
            let key_end = span.end;
            let (event, mut span) = self.next()?;
            if span.is_empty() {
                // a value that is left out stands nowhere; its place is behind the colon
                let colon = key_end + self.text.get(key_end..)?.find(':')? + 1;
                span = colon..colon;
            }
            let value = self.node(&event, span, depth + 1)?;
            last = value.span.end;
            entries.push((key, value));
        }
    }

    fn sequence(&mut self, start: &Range<usize>, depth: usize) -> Option<Node> {
        let mut items = Vec::new();
        let mut last = start.end;
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                let span = start.start..self.end(start.start, last)?;
                return Some(Node { span, shape: Shape::Sequence(items) });
            }
            let item = self.node(&event, span, depth + 1)?;
            last = item.span.end;
            items.push(item);
        }
    }

    /// A collection in brackets ends behind the bracket, a block collection with its last value. The parser reports
    /// both ends further behind: where it knew of them.
    fn end(&self, start: usize, last: usize) -> Option<usize> {
        if !matches!(self.text.as_bytes().get(start), Some(b'[' | b'{')) {
            return Some(last);
        }
        let mut comment = false;
        for (index, byte) in self.text.bytes().enumerate().skip(last) {
            match byte {
                b'\n' => comment = false,
                _ if comment => {}
                b'#' => comment = true,
                b']' | b'}' => return Some(index + 1),
                _ => {}
            }
        }
        None
    }
}
