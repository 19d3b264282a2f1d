//! An upstream's own words, fit for a client: no host, no address, no file, no key, no provider.
//!
//! The steps run in a fixed order, because each looks at what the one before has left: a URL is replaced
//! before its host could be, an address before its port looks like a word. The raw text belongs to the
//! log alone.

use std::sync::OnceLock;

use regex::Regex;

use super::upstream_text;

mod escapes;
mod paths;
mod patterns;
mod places;
mod secrets;

use self::escapes::Escapes;
use self::paths::Paths;
use self::patterns::{one_of, pattern};
use self::places::Places;
use self::secrets::Secrets;

/// So much of an upstream's text is looked at, in bytes.
const MAX_RAW_BYTES: usize = 4096;

/// So long a message may become, in characters.
const MAX_MESSAGE_CHARS: usize = 512;

/// What a client reads when the upstream gave no reason.
const NO_REASON: &str = "The upstream refused the request.";

/// What stands for a provider or a backend.
const ANY_PROVIDER: &str = "upstream";

/// Names that tell who runs a model.
const PROVIDERS: [&str; 19] = [
    "openai",
    "anthropic",
    "google",
    "azure",
    "bedrock",
    "vertex",
    "xai",
    "openrouter",
    "ollama",
    "nvidia",
    "nim",
    "litellm",
    "vllm",
    "groq",
    "together ai",
    "fireworks",
    "cohere",
    "mistral ai",
    "hugging face",
];

/// Makes messages out of upstream error bodies. Built once per configuration; what it looks for is compiled when the
/// first upstream refuses something, since it takes two megabytes and some milliseconds.
#[derive(Debug)]
pub struct Sanitizer {
    hosts: Vec<String>,
    names: Vec<String>,
    expressions: OnceLock<Expressions>,
}

#[derive(Debug)]
struct Expressions {
    escapes: Escapes,
    exceptions: Regex,
    paths: Paths,
    secrets: Secrets,
    places: Places,
    names: Vec<Regex>,
}

impl Sanitizer {
    /// A sanitiser that knows the host names of the configured backends, without ports, and their ids.
    pub fn new(hosts: impl IntoIterator<Item = String>, names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter().chain(PROVIDERS.map(str::to_owned));
        Self { hosts: hosts.into_iter().collect(), names: names.collect(), expressions: OnceLock::new() }
    }

    /// The message for the client. `upstream_model` is the id that the upstream knows, `slug` the one that
    /// the client sent.
    #[must_use]
    pub fn message(&self, raw_body: &[u8], upstream_model: &str, slug: &str) -> String {
        let expressions = self.expressions.get_or_init(|| Expressions::of(&self.hosts, &self.names));
        expressions.message(raw_body, upstream_model, slug)
    }
}

impl Expressions {
    fn of(hosts: &[String], names: &[String]) -> Self {
        Self {
            escapes: Escapes::new(),
            exceptions: pattern(r"^((\w+\.)*\w*(Error|Exception)\s*[:-]\s*)+"),
            paths: Paths::new(),
            secrets: Secrets::new(),
            places: Places::new(hosts.iter().cloned()),
            names: one_of(names.iter().cloned(), ""),
        }
    }

    fn message(&self, raw_body: &[u8], upstream_model: &str, slug: &str) -> String {
        let text = readable(&self.escapes.plain(cut(&upstream_text::message(raw_body))));
        let text = self.exceptions.replace(text.trim_start(), "");
        let text = if upstream_model.is_empty() { text.into_owned() } else { text.replace(upstream_model, slug) };
        let text = self.places.hide_urls(&text);
        let text = self.paths.hide(&self.escapes.apart(&self.paths.hide(&text)));
        let text = self.secrets.hide(&text);
        let text = self.places.hide_addresses(&text);
        let text = self.places.hide_hosts(&text);
        let text = self.hide_names(text);
        shorten(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    fn hide_names(&self, text: String) -> String {
        self.names.iter().fold(text, |text, names| names.replace_all(&text, ANY_PROVIDER).into_owned())
    }
}

/// What is looked at.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_RAW_BYTES)).unwrap_or_default()
}

/// Control characters as spaces.
fn readable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn shorten(mut text: String) -> String {
    if text.is_empty() {
        return NO_REASON.to_owned();
    }
    if text.chars().count() > MAX_MESSAGE_CHARS {
        let end = text.char_indices().nth(MAX_MESSAGE_CHARS - 1).map_or(text.len(), |(end, _)| end);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
