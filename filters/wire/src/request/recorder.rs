//! Turns what the JSON machine tells into the facts of a [`Scan`].

use std::ops::Range;

use super::embedding::Input;
use super::error::ScanErrorKind;
use super::finding::{Finding, Location, Problem};
use super::json::{Kind, Sink};
use super::message::{List, Message};
use super::name::{Name, SeenNames};
use super::path::Place;
use super::rerank::Documents;
use super::scan::{Member, Protocol, Scan};

/// Bytes of text that one integer of a tokenised prompt stands for, so that it is estimated as one token.
const BYTES_PER_TOKEN: u64 = 4;
/// Containers for which room is made at once; deeper ones make the list grow, up to the nesting limit.
const USUAL_DEPTH: usize = 16;

/// A container that is open.
#[derive(Clone, Debug)]
struct Frame {
    place: Place,
    kind: Kind,
    start: usize,
    name: Range<usize>,
    is_empty: bool,
}

/// Who takes the content of the open string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taker {
    Arguments,
    Data,
    Document,
    Input,
    Name,
    Nobody,
    Text,
    Url,
    /// Keeps it as [`Recorder::name`].
    Word,
}

#[derive(Clone, Debug)]
pub(super) struct Recorder {
    pub(super) scan: Scan,
    protocol: Protocol,
    frames: Vec<Frame>,
    seen: SeenNames,
    /// The name, type or media type that was read last.
    name: Name,
    name_range: Range<usize>,
    /// Place of the value that stands behind the name, or of the open scalar.
    place: Place,
    /// Start of the open scalar.
    start: usize,
    taker: Taker,
    message: Message,
    input: Input,
    documents: Documents,
}

impl Recorder {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            scan: Scan::default(),
            protocol,
            frames: Vec::with_capacity(USUAL_DEPTH),
            seen: SeenNames::new(),
            name: Name::new(),
            name_range: 0..0,
            place: Place::Body,
            start: 0,
            taker: Taker::Nobody,
            message: Message::new(protocol),
            input: Input::default(),
            documents: Documents::default(),
        }
    }

    /// A value begins at a place that is looked at; says who takes its content if it is a string.
    fn enter(&mut self, place: Place, kind: Kind, at: usize) -> Taker {
        let findings = &mut self.scan.findings;
        match place {
            Place::Message => self.message.begin(kind, at, findings),
            Place::Role => self.message.role(kind, at, findings),
            Place::Content => self.message.begin_content(List::MessageContent),
            Place::Part | Place::ItemPart | Place::Block => self.message.begin_part(at),
            Place::ImageUrl => self.message.part().begin_image_url(),
            Place::Url => self.message.part().begin_url(kind, at, findings),
            Place::Item => self.message.begin_item(),
            Place::ItemContent => self.message.begin_content(List::ItemContent),
            Place::ItemOutput => self.message.begin_content(List::ItemOutput),
            Place::Result => self.message.begin_result(),
            Place::InnerBlock => self.message.begin_inner_part(at),
            Place::Source => self.message.part().begin_source(),
            Place::SourceUrl => self.message.part().source().url(kind),
            Place::Data => self.message.part().source().begin_data(kind),
            Place::Calls => self.message.begin_calls(),
            Place::Call => self.message.begin_call(),
            Place::Arguments => self.message.begin_arguments(kind, at, findings),
            Place::Input if self.protocol == Protocol::Embeddings => {
                let found = self.input.begin(kind);
                self.find(found, at);
            }
            Place::Documents => self.documents.begin(),
            Place::Document => {
                let found = self.documents.begin_document(kind);
                self.find(found, at);
            }
            Place::DocumentText => {
                let found = self.documents.begin_text(kind);
                self.find(found, at);
            }
            Place::InputItem => {
                let found = self.input.begin_item(kind);
                self.find(found, at);
            }
            _ => {}
        }
        self.taker_at(place)
    }

    fn taker_at(&mut self, place: Place) -> Taker {
        let is_text = matches!(
            (place, self.protocol),
            (Place::Content | Place::Part | Place::PromptItem | Place::Text, _)
                | (Place::ItemContent | Place::ItemOutput | Place::ItemPart, _)
                | (Place::Block | Place::Result | Place::InnerBlock, _)
                | (Place::Prompt, Protocol::Completions)
                | (Place::Input | Place::Instructions, Protocol::Responses)
                | (Place::System, Protocol::Messages)
        );
        match place {
            _ if is_text => Taker::Text,
            Place::Arguments => Taker::Arguments,
            Place::Data => Taker::Data,
            Place::Document | Place::DocumentText => Taker::Document,
            Place::Query if self.protocol == Protocol::Rerank => Taker::Text,
            Place::Input if self.protocol == Protocol::Embeddings => Taker::Input,
            Place::InputItem => Taker::Input,
            Place::MediaType | Place::PartType | Place::SourceType => {
                self.name = Name::new();
                Taker::Word
            }
            Place::Url => Taker::Url,
            _ => Taker::Nobody,
        }
    }

    /// A value ends at a place that is looked at.
    fn leave(&mut self, place: Place, kind: Kind, range: &Range<usize>, is_integer: bool) {
        let at = range.start;
        let findings = &mut self.scan.findings;
        match place {
            Place::Message => self.message.end(kind, at, findings),
            Place::Part | Place::ItemPart | Place::Block => {
                self.scan.images += usize::from(self.message.part().end(kind, findings));
            }
            Place::InnerBlock => self.scan.images += usize::from(self.message.end_inner_part(kind, findings)),
            Place::PartType if kind == Kind::String => {
                self.message.part().part_type(self.name.known(), findings);
            }
            Place::ImageUrl => self.message.part().end_image_url(at, findings),
            Place::Url if kind == Kind::String => self.message.part().end_url(findings),
            Place::Source => self.scan.prompt_text_bytes += self.message.part().end_source(at, findings),
            Place::SourceType => self.message.part().source().kind(word(&self.name, kind)),
            Place::MediaType => self.message.part().source().media_type(word(&self.name, kind)),
            Place::Data if kind == Kind::String => self.message.part().source().end_data(),
            Place::Arguments if kind == Kind::String => self.message.end_arguments(findings),
            Place::Schema => self.scan.prompt_text_bytes += range.len() as u64,
            Place::PromptItem if kind == Kind::Number => self.scan.prompt_text_bytes += BYTES_PER_TOKEN,
            Place::Document => {
                let found = self.documents.end_document(kind);
                self.find(found, at);
            }
            Place::Documents if self.protocol == Protocol::Rerank => {
                let found = self.documents.end(kind);
                self.find(found, at);
            }
            Place::InputItem => self.end_input_item(kind, at, is_integer),
            Place::Token => self.end_token(at, is_integer),
            Place::Input if self.protocol == Protocol::Embeddings => {
                let found = self.input.end(kind);
                self.find(found, at);
                self.scan.input_count = self.input.count(kind);
                self.scan.longest_input_text = self.input.longest_text;
                self.scan.longest_input_tokens = self.input.longest_tokens;
            }
            _ => {}
        }
    }

    fn end_input_item(&mut self, kind: Kind, at: usize, is_integer: bool) {
        if kind == Kind::Number {
            self.scan.prompt_text_bytes += BYTES_PER_TOKEN;
        }
        let found = self.input.end_item(kind, is_integer);
        self.find(found, at);
    }

    fn end_token(&mut self, at: usize, is_integer: bool) {
        self.scan.prompt_text_bytes += BYTES_PER_TOKEN;
        if self.protocol == Protocol::Embeddings {
            let found = self.input.end_token(is_integer);
            self.find(found, at);
        }
    }

    /// Records a finding of an embeddings input or of documents. What concerns the whole input stands at its start.
    fn find(&mut self, found: Option<(Problem, Location)>, at: usize) {
        if let Some((problem, location)) = found {
            let is_whole = |frame: &&Frame| {
                matches!(
                    (location, frame.place),
                    (Location::Input, Place::Input) | (Location::Documents, Place::Documents)
                )
            };
            let whole = self.frames.last().filter(is_whole);
            let offset = whole.map_or(at, |frame| frame.start);
            Finding { problem, offset, location }.add_to(&mut self.scan.findings);
        }
    }

    fn record(&mut self, place: Place, kind: Kind, value: Range<usize>, key: Range<usize>, is_empty: bool) {
        match place {
            Place::Body => {
                self.scan.close = value.end.saturating_sub(1);
                self.scan.is_empty_object = is_empty;
            }
            Place::StreamOptions => {
                let is_object = kind == Kind::Object;
                self.scan.stream_options_close = is_object.then_some(value.end.saturating_sub(1));
                self.scan.stream_options_is_empty = is_object && is_empty;
            }
            Place::Messages => self.scan.messages_count = self.message.count,
            Place::Input if self.protocol == Protocol::Responses => {
                self.scan.messages_count = if kind == Kind::String { 1 } else { self.message.count };
            }
            _ => {}
        }
        if let Some(slot) = self.scan.slot(place) {
            *slot = Some(Member { kind, value, key });
        }
    }
}

/// What a word says; another kind of value says nothing that is known.
fn word(name: &Name, kind: Kind) -> Option<&[u8]> {
    name.known().filter(|_| kind == Kind::String)
}

impl Sink for Recorder {
    fn begin(&mut self, kind: Kind, at: usize) -> Result<(), ScanErrorKind> {
        match self.frames.last() {
            None if kind == Kind::Object => {}
            None => return Err(ScanErrorKind::NotAnObject),
            Some(frame) if frame.kind == Kind::Array => self.place = frame.place.element(self.protocol),
            Some(_) => {}
        }
        self.start = at;
        let place = self.place;
        self.taker = if place == Place::Other { Taker::Nobody } else { self.enter(place, kind, at) };
        if matches!(kind, Kind::Array | Kind::Object) {
            self.frames.push(Frame { place, kind, start: at, name: self.name_range.clone(), is_empty: true });
        }
        Ok(())
    }

    fn end(&mut self, kind: Kind, at: usize, is_integer: bool) {
        let scalar = (self.place, self.start);
        let container = if matches!(kind, Kind::Array | Kind::Object) { self.frames.pop() } else { None };
        let (place, start) = container.as_ref().map_or(scalar, |frame| (frame.place, frame.start));
        if place == Place::Other {
            return;
        }
        self.leave(place, kind, &(start..at), is_integer);
        let (name, is_empty) =
            container.map_or_else(|| (self.name_range.clone(), false), |frame| (frame.name, frame.is_empty));
        self.record(place, kind, start..at, name, is_empty);
    }

    fn name(&mut self, at: usize) {
        self.taker = Taker::Name;
        self.name = Name::new();
        self.name_range.start = at;
        if let Some(frame) = self.frames.last_mut() {
            frame.is_empty = false;
        }
    }

    fn name_end(&mut self, at: usize) -> Result<(), ScanErrorKind> {
        self.name_range.end = at;
        let parent = self.frames.last().map_or(Place::Other, |frame| frame.place);
        self.place = self.name.known().map_or(Place::Other, |name| parent.member(name));
        if parent == Place::Body && !self.seen.end() {
            return Err(ScanErrorKind::DuplicateMember);
        }
        Ok(())
    }

    fn text(&mut self, piece: &[u8]) {
        if matches!(self.taker, Taker::Arguments | Taker::Document | Taker::Input | Taker::Text) {
            self.scan.prompt_text_bytes += piece.len() as u64;
        }
        match self.taker {
            Taker::Arguments => self.message.arguments_text(piece, &mut self.scan.findings),
            Taker::Document => self.documents.text(piece),
            Taker::Input => self.input.text(piece),
            Taker::Name => {
                self.name.push(piece);
                if self.frames.len() == 1 {
                    self.seen.push(piece);
                }
            }
            Taker::Data => self.message.part().source().data_text(piece),
            Taker::Word => self.name.push(piece),
            Taker::Url => self.message.part().url_text(piece, &mut self.scan.findings),
            Taker::Nobody | Taker::Text => {}
        }
    }
}
