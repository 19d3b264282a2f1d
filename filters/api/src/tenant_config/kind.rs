//! Type and range of a key. Every level asks here, whatever form its values come in.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use rust_decimal::Decimal;

use super::environment::Limits;
use super::tools::TOOLS;
use super::value::Value;

/// Most domains of a list.
pub const MAX_DOMAINS: usize = 200;
/// Most bytes of a word.
const MAX_WORD: usize = 256;
/// Most bytes of a domain name, and of one of its labels (RFC 1035, section 2.3.4).
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;

/// What a model is wanted for: which types of models fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelUse {
    /// To write text.
    Chat,
    /// To embed text.
    Embedding,
    /// To draw.
    Image,
    /// To write down what is said.
    Transcription,
}

/// Type and range of a key. Whether a model exists is for those to ask who know the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hundredths, from and to.
    Decimal(i64, i64),
    /// At most [`MAX_DOMAINS`] domain names.
    Domains,
    /// True or false.
    Flag,
    /// Globs of slugs, or null.
    Globs,
    /// A whole number, from and to.
    Integer(u64, u64),
    /// A whole number from 1 to [`Limits::max_tool_iterations`].
    Iterations,
    /// Name of a model.
    Slug(ModelUse),
    /// Name of a model, or null.
    SlugOrNull(ModelUse),
    /// Distinct names of tools.
    Tools,
    /// One of a few words.
    Word(&'static [&'static str]),
}

/// A value as some form of writing shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A text from the environment, which is what the key wants it to be. Lists have commas.
    Bare(String),
    /// True or false.
    Flag(bool),
    /// A list.
    List(Vec<Self>),
    /// Nothing.
    Null,
    /// A number as it was written.
    Number(String),
    /// Something that no key takes.
    Other,
    /// A text.
    Text(String),
}

/// Why a value does not fit. The message goes on after the name of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The item of a list.
    pub item: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Wrong {
    fn all(message: impl Into<String>) -> Vec<Self> {
        vec![Self { item: None, message: message.into() }]
    }
}

impl Kind {
    /// The word for its type in answers.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Decimal(..) => "decimal",
            Self::Domains | Self::Globs | Self::Tools => "list",
            Self::Flag => "boolean",
            Self::Integer(..) | Self::Iterations => "integer",
            Self::Slug(_) | Self::SlugOrNull(_) | Self::Word(_) => "string",
        }
    }

    /// What the model is wanted for, if the key names one.
    #[must_use]
    pub fn model_use(self) -> Option<ModelUse> {
        match self {
            Self::Slug(wanted_for) | Self::SlugOrNull(wanted_for) => Some(wanted_for),
            _ => None,
        }
    }

    fn takes_null(self) -> bool {
        matches!(self, Self::Globs | Self::SlugOrNull(_))
    }

    /// The value, if it fits.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(self, input: Input, limits: Limits) -> Result<Value, Vec<Wrong>> {
        let is_null = match &input {
            Input::Null => true,
            Input::Bare(text) => text == "null",
            _ => false,
        };
        if is_null && self.takes_null() {
            return Ok(Value::Null);
        }
        match self {
            Self::Decimal(min, max) => decimal(&input, Decimal::new(min, 2), Decimal::new(max, 2)),
            Self::Domains => domains(input),
            Self::Flag => flag(&input),
            Self::Globs => list(input, |text| is_word(text).then_some(()).ok_or_else(not_a_word)),
            Self::Integer(min, max) => integer(&input, min, max),
            Self::Iterations => integer(&input, 1, limits.max_tool_iterations),
            Self::Slug(_) | Self::SlugOrNull(_) => {
                let text = text(input).map_err(Wrong::all)?;
                if is_word(&text) { Ok(Value::Text(text.into())) } else { Err(Wrong::all(not_a_word())) }
            }
            Self::Tools => tools(input),
            Self::Word(words) => {
                let known = |text: &str| words.iter().find(|word| **word == text);
                let word = text(input).ok().and_then(|text| known(&text).copied());
                word.map(|word| Value::Text(word.into()))
                    .ok_or_else(|| Wrong::all(format!("must be one of {}", words.join(", "))))
            }
        }
    }
}

fn flag(input: &Input) -> Result<Value, Vec<Wrong>> {
    let flag = match input {
        Input::Flag(flag) => Some(*flag),
        Input::Bare(text) => text.parse().ok(),
        _ => None,
    };
    flag.map(Value::Flag).ok_or_else(|| Wrong::all("must be true or false"))
}

fn integer(input: &Input, min: u64, max: u64) -> Result<Value, Vec<Wrong>> {
    let (Input::Bare(text) | Input::Number(text)) = input else { return Err(out_of(&"number", &min, &max)) };
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = u64::from_str(text).ok().filter(|number| plain && (min..=max).contains(number));
    number.map(Value::Integer).ok_or_else(|| out_of(&"number", &min, &max))
}

fn decimal(input: &Input, min: Decimal, max: Decimal) -> Result<Value, Vec<Wrong>> {
    let number = match input {
        Input::Number(text) if text.contains(['e', 'E']) => Decimal::from_scientific(text).ok(),
        Input::Bare(text) | Input::Number(text) | Input::Text(text) => Decimal::from_str_exact(text).ok(),
        _ => None,
    };
    let number = number.filter(|number| (min..=max).contains(number));
    number.map(Value::Decimal).ok_or_else(|| out_of(&"decimal", &min, &max))
}

fn out_of(what: &dyn Display, min: &dyn Display, max: &dyn Display) -> Vec<Wrong> {
    Wrong::all(format!("must be a {what} from {min} to {max}"))
}

fn text(input: Input) -> Result<String, String> {
    match input {
        Input::Bare(text) | Input::Text(text) => Ok(text),
        _ => Err("must be text".to_owned()),
    }
}

/// A list of texts, all of which are looked at.
fn list(input: Input, check: impl Fn(&str) -> Result<(), String>) -> Result<Value, Vec<Wrong>> {
    let items = match input {
        Input::List(items) => items,
        Input::Bare(text) => text.split(',').map(|item| Input::Text(item.trim().to_owned())).collect(),
        _ => return Err(Wrong::all("must be a list")),
    };
    let (mut texts, mut wrong) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.into_iter().enumerate() {
        match text(item).and_then(|text| check(&text).map(|()| text)) {
            Ok(text) => texts.push(text),
            Err(message) => wrong.push(Wrong { item: Some(index), message }),
        }
    }
    if wrong.is_empty() { Ok(Value::List(texts.into())) } else { Err(wrong) }
}

fn domains(input: Input) -> Result<Value, Vec<Wrong>> {
    let value = list(input, |text| is_domain(text).then_some(()).ok_or_else(|| "must be a domain name".to_owned()))?;
    match &value {
        Value::List(list) if list.len() > MAX_DOMAINS => {
            Err(Wrong::all(format!("has {} entries, at most {MAX_DOMAINS} are allowed", list.len())))
        }
        _ => Ok(value),
    }
}

fn tools(input: Input) -> Result<Value, Vec<Wrong>> {
    let value =
        list(input, |text| TOOLS.contains(&text).then_some(()).ok_or_else(|| "must be the name of a tool".to_owned()))?;
    let Value::List(names) = &value else { return Ok(value) };
    // as many as there are tools, at most, before one is there twice
    let twice = names.iter().enumerate().find(|(index, one)| names.iter().take(*index).any(|other| other == *one));
    match twice {
        Some((_, name)) => Err(Wrong::all(format!("names {name} twice"))),
        None => Ok(value),
    }
}

fn not_a_word() -> String {
    format!("must be a word of at most {MAX_WORD} visible characters")
}

/// A slug or a glob of slugs: visible characters only.
fn is_word(text: &str) -> bool {
    (1..=MAX_WORD).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A host name: what is compared with the host of a URL and the domains above it.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MAX_DOMAIN && text.split('.').all(label)
}

/// A list as a value.
pub(super) fn list_of(words: &[&str]) -> Value {
    let words: Arc<[String]> = words.iter().map(|word| (*word).to_owned()).collect();
    Value::List(words)
}
