//! The arguments of a tool call: JSON inside of a JSON string, checked as its characters arrive.

use super::json::{Machine, Sink};

struct Ignore;

impl Sink for Ignore {}

/// The check of one string.
#[derive(Clone, Debug)]
pub(super) struct Arguments {
    machine: Machine,
    is_broken: bool,
}

impl Arguments {
    pub(super) fn new() -> Self {
        Self { machine: Machine::new(), is_broken: false }
    }

    /// Takes unescaped content; false once it cannot become JSON any more.
    pub(super) fn push(&mut self, piece: &[u8]) -> bool {
        self.is_broken = self.is_broken || self.machine.push(piece, &mut Ignore).is_err();
        !self.is_broken
    }

    /// Whether the content is JSON. An empty string is none.
    pub(super) fn finish(&mut self) -> bool {
        !self.is_broken && self.machine.finish(&mut Ignore).is_ok()
    }
}
