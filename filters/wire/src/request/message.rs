//! The message being read: its role, its parts, its tool calls.

use super::arguments::Arguments;
use super::finding::{Finding, Location, PartPath, Problem};
use super::json::Kind;
use super::part::{Form, Part};
use super::scan::Protocol;

/// State of the innermost open message. Elements of `messages` come one after the other, so one state serves them all.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// Messages begun; items of the input, where the dialect calls them so.
    pub(super) count: usize,
    has_role: bool,
    form: Form,
    list: List,
    /// Parts begun in the open list, and in the result that is open within one of them.
    parts: usize,
    inner_parts: usize,
    part: Part,
    /// A part of the result of a tool, while it is open.
    inner: Option<Part>,
    calls: usize,
    /// The arguments that are open, with the offset at which they start.
    arguments: (Arguments, usize),
}

/// The list that holds the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    ItemContent,
    ItemOutput,
    MessageContent,
}

impl Message {
    pub(super) fn new(protocol: Protocol) -> Self {
        let form = Form::of(protocol);
        Self {
            count: 0,
            has_role: false,
            form,
            list: List::MessageContent,
            parts: 0,
            inner_parts: 0,
            part: Part::new(form, PartPath::Message { message: 0, part: 0 }, 0),
            inner: None,
            calls: 0,
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

    /// An item of the input begins; it needs no role.
    pub(super) fn begin_item(&mut self) {
        self.count += 1;
    }

    pub(super) fn role(&mut self, kind: Kind, at: usize, findings: &mut Vec<Finding>) {
        self.has_role = kind != Kind::Null;
        if self.has_role && kind != Kind::String {
            self.find(Problem::RoleNotString, at, Location::Role(self.index()), findings);
        }
    }

    pub(super) fn begin_content(&mut self, list: List) {
        self.list = list;
        self.parts = 0;
    }

    pub(super) fn begin_part(&mut self, at: usize) {
        self.parts += 1;
        let (message, part) = (self.index(), self.part_index());
        let path = match self.list {
            List::ItemContent => PartPath::ItemContent { item: message, part },
            List::ItemOutput => PartPath::ItemOutput { item: message, part },
            List::MessageContent => PartPath::Message { message, part },
        };
        self.part = Part::new(self.form, path, at);
        self.inner = None;
    }

    /// The content of a part begins.
    pub(super) fn begin_result(&mut self) {
        self.inner_parts = 0;
    }

    pub(super) fn begin_inner_part(&mut self, at: usize) {
        let (message, part, inner) = (self.index(), self.part_index(), self.inner_parts);
        self.inner = Some(Part::new(self.form, PartPath::Result { message, part, inner }, at));
        self.inner_parts += 1;
    }

    /// An inner part ends; says whether it is an image.
    pub(super) fn end_inner_part(&mut self, kind: Kind, findings: &mut Vec<Finding>) -> bool {
        self.inner.take().is_some_and(|mut part| part.end(kind, findings))
    }

    /// The innermost open part.
    pub(super) fn part(&mut self) -> &mut Part {
        self.inner.as_mut().unwrap_or(&mut self.part)
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
