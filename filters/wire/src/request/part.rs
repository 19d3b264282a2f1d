//! The part of a message being read: whether it is an image, and what is wrong with that.

use super::finding::{Finding, Location, PartPath, Problem};
use super::image::ImageUrl;
use super::json::Kind;
use super::scan::Protocol;
use super::source::Source;

/// How a dialect writes an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `image_url` is an object with a `url`.
    Object,
    /// `source` holds the type and the payload apart.
    Source,
    /// `image_url` is the URL itself.
    Text,
}

impl Form {
    pub(super) fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Messages => Self::Source,
            Protocol::Responses => Self::Text,
            _ => Self::Object, // only chat has parts among the others
        }
    }

    /// Type of an image part.
    fn image_type(self) -> &'static [u8] {
        match self {
            Self::Object => b"image_url",
            Self::Source => b"image",
            Self::Text => b"input_image",
        }
    }
}

/// What is known of a part while its type may still follow.
#[derive(Clone, Debug)]
pub(super) struct Part {
    form: Form,
    path: PartPath,
    /// Where it begins.
    at: usize,
    is_image: bool,
    /// Whether it has the member that holds the image.
    has_image: bool,
    /// Whether the open `image_url` has a URL.
    has_url: bool,
    problem: Option<(Problem, usize)>,
    /// The URL that is open, with the offset at which it starts.
    url: (ImageUrl, usize),
    source: Source,
}

impl Part {
    pub(super) fn new(form: Form, path: PartPath, at: usize) -> Self {
        Self {
            form,
            path,
            at,
            is_image: false,
            has_image: false,
            has_url: false,
            problem: None,
            url: (ImageUrl::new(), 0),
            source: Source::default(),
        }
    }

    /// The part ends; says whether it is an image.
    pub(super) fn end(&mut self, kind: Kind, findings: &mut Vec<Finding>) -> bool {
        if kind == Kind::Object && !self.has_image {
            self.note(Problem::ImageUrlMissing, self.at);
        }
        self.settle(findings);
        self.is_image
    }

    /// That there is an image comes before all that may be wrong with it, wherever the type stands.
    pub(super) fn part_type(&mut self, name: Option<&[u8]>, findings: &mut Vec<Finding>) {
        if name == Some(self.form.image_type()) {
            self.is_image = true;
            let location = Location::PartType(self.path);
            Finding { problem: Problem::ImagePart, offset: self.at, location }.add_to(findings);
            self.settle(findings);
        }
    }

    pub(super) fn begin_image_url(&mut self) {
        self.has_image = true;
        self.has_url = false;
    }

    /// An `image_url` ends; one that is no object has no URL either.
    pub(super) fn end_image_url(&mut self, at: usize, findings: &mut Vec<Finding>) {
        if !self.has_url {
            self.note(Problem::ImageUrlMissing, at);
        }
        self.settle(findings);
    }

    pub(super) fn begin_url(&mut self, kind: Kind, at: usize, findings: &mut Vec<Finding>) {
        self.has_image = true;
        self.has_url = true;
        self.url = (ImageUrl::new(), at);
        match kind {
            Kind::String => {}
            Kind::Null => self.note(Problem::ImageUrlMissing, at),
            _ => self.note(Problem::ImageUrlNotString, at),
        }
        self.settle(findings);
    }

    pub(super) fn url_text(&mut self, piece: &[u8], findings: &mut Vec<Finding>) {
        if let Some(problem) = self.url.0.push(piece) {
            self.note(problem, self.url.1);
            self.settle(findings);
        }
    }

    pub(super) fn end_url(&mut self, findings: &mut Vec<Finding>) {
        if let Some(problem) = self.url.0.finish() {
            self.note(problem, self.url.1);
            self.settle(findings);
        }
    }

    pub(super) fn begin_source(&mut self) {
        self.has_image = true;
        self.source = Source::default();
    }

    /// The source that is open, or was read last.
    pub(super) fn source(&mut self) -> &mut Source {
        &mut self.source
    }

    /// A source ends; gives the bytes of its text, if it holds text.
    pub(super) fn end_source(&mut self, at: usize, findings: &mut Vec<Finding>) -> u64 {
        if let Some(problem) = self.source.problem() {
            self.note(problem, at);
        }
        self.settle(findings);
        self.source.text_bytes()
    }

    /// Keeps the first problem; every occurrence of a repeated member is looked at.
    fn note(&mut self, problem: Problem, at: usize) {
        self.problem.get_or_insert((problem, at));
    }

    /// Reports the problem as soon as the part is known to be an image.
    fn settle(&self, findings: &mut Vec<Finding>) {
        if let (true, Some((problem, offset))) = (self.is_image, self.problem) {
            let location = match self.form {
                Form::Object => Location::ImageUrl(self.path),
                Form::Source => Location::ImageData(self.path),
                Form::Text => Location::ImageUrlText(self.path),
            };
            Finding { problem, offset, location }.add_to(findings);
        }
    }
}
