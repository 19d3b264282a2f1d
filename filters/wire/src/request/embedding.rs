//! The `input` of an embeddings request: its form, and the caps that hold for a model without own ones.

use super::finding::{Location, Problem};
use super::json::Kind;

/// Most inputs in one request (specification of the gateway, embeddings).
pub const MAX_INPUTS: usize = 256;
/// Most UTF-8 bytes in one input text (specification of the gateway, embeddings).
pub const MAX_INPUT_BYTES: u64 = 8192;
/// Most integers in one input (specification of the gateway, embeddings: `max_input_tokens` of the local model).
pub const MAX_INPUT_TOKENS: u64 = 2048;

/// The size of one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputSize {
    /// Which input it is: [`Location::Input`] for a single one.
    pub location: Location,
    /// UTF-8 bytes of a text, integers of a tokenised input.
    pub size: u64,
}

/// What the first element makes of the array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Form {
    /// The input is no array, or an empty one.
    #[default]
    Single,
    Lists,
    Texts,
    /// One input of integers.
    Tokens,
    /// The first element is of no allowed kind.
    Unknown,
}

/// The state of the check; one method per event, each of which may give a problem and its place.
#[derive(Clone, Debug, Default)]
pub(super) struct Input {
    form: Form,
    /// Elements begun.
    items: usize,
    /// UTF-8 bytes of the open string.
    bytes: u64,
    /// Integers of the open list.
    tokens: u64,
    /// The longest text, the first of equals.
    pub(super) longest_text: Option<InputSize>,
    /// The longest list of integers, the first of equals.
    pub(super) longest_tokens: Option<InputSize>,
}

type Found = Option<(Problem, Location)>;

impl Input {
    /// The value of `input` begins. Null counts as absent.
    pub(super) fn begin(&mut self, kind: Kind) -> Found {
        *self = Self::default();
        let is_allowed = matches!(kind, Kind::Array | Kind::Null | Kind::String);
        (!is_allowed).then_some((Problem::EmbeddingInputType, Location::Input))
    }

    pub(super) fn end(&mut self, kind: Kind) -> Found {
        let problem = match (kind, self.form) {
            (Kind::String, _) => self.end_text(Location::Input),
            (Kind::Array, Form::Tokens) => self.end_tokens(Location::Input),
            (Kind::Array, _) => (self.items == 0).then_some(Problem::EmbeddingInputEmpty),
            _ => None,
        };
        problem.map(|problem| (problem, Location::Input))
    }

    /// An element begins.
    pub(super) fn begin_item(&mut self, kind: Kind) -> Found {
        if self.items == 0 {
            self.form = match kind {
                Kind::Array => Form::Lists,
                Kind::Number => Form::Tokens,
                Kind::String => Form::Texts,
                _ => Form::Unknown,
            };
        }
        self.items += 1;
        self.bytes = 0;
        if self.form == Form::Tokens {
            self.tokens += 1;
        } else {
            self.tokens = 0;
            if self.items == MAX_INPUTS + 1 {
                return Some((Problem::EmbeddingTooManyInputs, Location::Input));
            }
        }
        let fits = matches!(
            (self.form, kind),
            (Form::Lists, Kind::Array) | (Form::Texts, Kind::String) | (Form::Tokens, Kind::Number)
        );
        (!fits).then(|| (Problem::EmbeddingInputType, self.item()))
    }

    pub(super) fn end_item(&mut self, kind: Kind, is_integer: bool) -> Found {
        let problem = match kind {
            Kind::Array => self.end_tokens(self.item()),
            Kind::Number => (!is_integer).then_some(Problem::EmbeddingInputType),
            Kind::String => self.end_text(self.item()),
            _ => None,
        };
        problem.map(|problem| (problem, self.item()))
    }

    /// An element of an element ends.
    pub(super) fn end_token(&mut self, is_integer: bool) -> Found {
        self.tokens += 1;
        (!is_integer).then(|| (Problem::EmbeddingInputType, self.item()))
    }

    /// Content of the open string.
    pub(super) fn text(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
    }

    /// Inputs of the request: an array of integers is one.
    pub(super) fn count(&self, kind: Kind) -> usize {
        match (kind, self.form) {
            (Kind::String, _) | (_, Form::Tokens) => 1,
            _ => self.items,
        }
    }

    fn item(&self) -> Location {
        Location::InputItem(self.items.saturating_sub(1))
    }

    fn end_text(&mut self, location: Location) -> Option<Problem> {
        keep_longer(&mut self.longest_text, InputSize { location, size: self.bytes });
        match self.bytes {
            0 => Some(Problem::EmbeddingInputEmpty),
            1..=MAX_INPUT_BYTES => None,
            _ => Some(Problem::EmbeddingInputTooLarge),
        }
    }

    fn end_tokens(&mut self, location: Location) -> Option<Problem> {
        keep_longer(&mut self.longest_tokens, InputSize { location, size: self.tokens });
        match self.tokens {
            0 => Some(Problem::EmbeddingInputEmpty),
            1..=MAX_INPUT_TOKENS => None,
            count => Some(Problem::EmbeddingTooManyTokens { count }),
        }
    }
}

fn keep_longer(longest: &mut Option<InputSize>, input: InputSize) {
    if longest.is_none_or(|longest| longest.size < input.size) {
        *longest = Some(input);
    }
}
