//! The message being read: its role, its image parts, its tool calls.

use super::arguments::Arguments;
use super::finding::{Finding, Location, Problem};
use super::image::ImageUrl;
use super::json::Kind;

/// Type of an image part.
const IMAGE_TYPE: &[u8] = b"image_url";

/// State of the innermost open message. Elements of `messages` come one after the other, so one state serves them all.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// Messages begun.
    pub(super) count: usize,
    has_role: bool,
    parts: usize,
    part: Part,
    calls: usize,
    /// The URL and the arguments that are open, with the offset at which they start.
    url: (ImageUrl, usize),
    arguments: (Arguments, usize),
}

/// What is known of a part while its type may still follow.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    is_image: bool,
    has_image_url: bool,
    /// Whether the open `image_url` has a URL.
    has_url: bool,
    problem: Option<(Problem, usize)>,
}

impl Part {
    /// Keeps the first problem; every occurrence of a repeated member is looked at.
    fn note(&mut self, problem: Problem, at: usize) {
        self.problem.get_or_insert((problem, at));
    }
}

impl Message {
    pub(super) fn new() -> Self {
        Self {
            count: 0,
            has_role: false,
            parts: 0,
            part: Part::default(),
            calls: 0,
            url: (ImageUrl::new(), 0),
            arguments: (Arguments::new(), 0),
        }
    }

    pub(super) fn begin(&mut self, kind: Kind, at: usize, findings: &mut Vec<Finding>) {
        self.count += 1;
        self.has_role = false;
        if kind != Kind::Object {
            self.find(Problem::MessageNotObject, at, Location::Message(self.index()), findings);
        }
    }

    pub(super) fn end(&mut self, kind: Kind, at: usize, findings: &mut Vec<Finding>) {
        if kind == Kind::Object && !self.has_role {
            self.find(Problem::RoleMissing, at, Location::Role(self.index()), findings);
        }
    }

    pub(super) fn role(&mut self, kind: Kind, at: usize, findings: &mut Vec<Finding>) {
        self.has_role = kind != Kind::Null;
        if self.has_role && kind != Kind::String {
            self.find(Problem::RoleNotString, at, Location::Role(self.index()), findings);
        }
    }

    pub(super) fn begin_content(&mut self) {
        self.parts = 0;
    }

    pub(super) fn begin_part(&mut self) {
        self.parts += 1;
        self.part = Part::default();
    }

    /// A part ends that began at `at`; says whether it is an image.
    pub(super) fn end_part(&mut self, kind: Kind, at: usize, findings: &mut Vec<Finding>) -> bool {
        if kind == Kind::Object && !self.part.has_image_url {
            self.part.note(Problem::ImageUrlMissing, at);
        }
        self.settle_part(findings);
        self.part.is_image
    }

    pub(super) fn part_type(&mut self, name: Option<&[u8]>, at: usize, findings: &mut Vec<Finding>) {
        if name == Some(IMAGE_TYPE) {
            self.part.is_image = true;
            let location = Location::PartType { message: self.index(), part: self.part_index() };
            self.find(Problem::ImagePart, at, location, findings);
            self.settle_part(findings);
        }
    }

    pub(super) fn begin_image_url(&mut self) {
        self.part.has_image_url = true;
        self.part.has_url = false;
    }

    /// An `image_url` ends; one that is no object has no URL either.
    pub(super) fn end_image_url(&mut self, at: usize, findings: &mut Vec<Finding>) {
        if !self.part.has_url {
            self.part.note(Problem::ImageUrlMissing, at);
        }
        self.settle_part(findings);
    }

    pub(super) fn begin_url(&mut self, kind: Kind, at: usize, findings: &mut Vec<Finding>) {
        self.part.has_url = true;
        self.url = (ImageUrl::new(), at);
        match kind {
            Kind::String => {}
            Kind::Null => self.part.note(Problem::ImageUrlMissing, at),
            _ => self.part.note(Problem::ImageUrlNotString, at),
        }
        self.settle_part(findings);
    }

    pub(super) fn url_text(&mut self, piece: &[u8], findings: &mut Vec<Finding>) {
        if let Some(problem) = self.url.0.push(piece) {
            self.part.note(problem, self.url.1);
            self.settle_part(findings);
        }
    }

    pub(super) fn end_url(&mut self, findings: &mut Vec<Finding>) {
        if let Some(problem) = self.url.0.finish() {
            self.part.note(problem, self.url.1);
            self.settle_part(findings);
        }
    }

    pub(super) fn begin_calls(&mut self) {
        self.calls = 0;
    }

    pub(super) fn begin_call(&mut self) {
        self.calls += 1;
    }

    /// Null counts as absent.
    pub(super) fn begin_arguments(&mut self, kind: Kind, at: usize, findings: &mut Vec<Finding>) {
        self.arguments = (Arguments::new(), at);
        if !matches!(kind, Kind::Null | Kind::String) {
            self.bad_arguments(findings);
        }
    }

    pub(super) fn arguments_text(&mut self, piece: &[u8], findings: &mut Vec<Finding>) {
        if !self.arguments.0.push(piece) {
            self.bad_arguments(findings);
        }
    }

    pub(super) fn end_arguments(&mut self, findings: &mut Vec<Finding>) {
        if !self.arguments.0.finish() {
            self.bad_arguments(findings);
        }
    }

    fn bad_arguments(&self, findings: &mut Vec<Finding>) {
        let location = Location::Arguments { message: self.index(), call: self.calls.saturating_sub(1) };
        self.find(Problem::ToolArguments, self.arguments.1, location, findings);
    }

    /// Reports the problem of the part as soon as the part is known to be an image.
    fn settle_part(&self, findings: &mut Vec<Finding>) {
        if let (true, Some((problem, at))) = (self.part.is_image, self.part.problem) {
            let location = Location::ImageUrl { message: self.index(), part: self.part_index() };
            self.find(problem, at, location, findings);
        }
    }

    fn find(&self, problem: Problem, offset: usize, location: Location, findings: &mut Vec<Finding>) {
        Finding { problem, offset, location }.add_to(findings);
    }

    fn index(&self) -> usize {
        self.count.saturating_sub(1)
    }

    fn part_index(&self) -> usize {
        self.parts.saturating_sub(1)
    }
}
