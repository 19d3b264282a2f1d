//! What a list of messages says: the shapes of the wire, and the digest that answers are made from.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::Refusal;
use crate::usage::{TOKENS_PER_IMAGE, tokens};

/// One message, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    role: Role,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    tool_calls: Option<Vec<IgnoredAny>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Role {
    Assistant,
    Developer,
    Function,
    System,
    Tool,
    User,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    image_url: Option<ImageUrl>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ImageUrl {
    Bare(String),
    Object { url: String },
}

/// What the answer is made from.
#[derive(Debug, Default)]
pub(crate) struct Prompt {
    /// Number of messages.
    pub(crate) messages: usize,
    /// Words in all of them.
    pub(crate) words: usize,
    /// Text of the first system or developer message.
    pub(crate) system: Option<String>,
    /// Text of the last user message.
    pub(crate) user: Option<String>,
    /// Text of the last message, when a tool sent it.
    pub(crate) tool_result: Option<String>,
    /// One description per image, such as `an image/png of 8 bytes`.
    pub(crate) images: Vec<String>,
    /// Cost of all texts and images.
    pub(crate) tokens: usize,
}

impl Prompt {
    /// Reads the messages.
    ///
    /// # Errors
    /// There is none, one of them is empty, or an image is not what it claims to be.
    pub(crate) fn read(messages: &[Message]) -> Result<Self, Refusal> {
        if messages.is_empty() {
            return Err(Refusal::at("messages", "`messages` must have at least one element."));
        }
        let mut prompt = Self { messages: messages.len(), ..Self::default() };
        for (index, message) in messages.iter().enumerate() {
            prompt.add(message, index)?;
        }
        Ok(prompt)
    }

    fn add(&mut self, message: &Message, index: usize) -> Result<(), Refusal> {
        let place = format!("messages[{index}].content");
        if message.content.is_none() && (message.role != Role::Assistant || message.tool_calls.is_none()) {
            return Err(Refusal::at(place, "A message without tool calls needs `content`."));
        }
        let text = match &message.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => self.parts(parts, &place)?,
        };
        self.words += text.split_whitespace().count();
        self.tokens += tokens(&text);
        self.tool_result = None;
        match message.role {
            Role::Assistant => {}
            Role::Developer | Role::System => {
                self.system.get_or_insert(text);
            }
            Role::Function | Role::Tool => self.tool_result = Some(text),
            Role::User => self.user = Some(text),
        }
        Ok(())
    }

    fn parts(&mut self, parts: &[Part], place: &str) -> Result<String, Refusal> {
        let mut texts = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            match (part.kind.as_str(), &part.text, &part.image_url) {
                ("text" | "refusal", Some(text), _) => texts.push(text.as_str()),
                ("text", None, _) => return Err(Refusal::at(format!("{place}[{index}].text"), "The text is missing.")),
                ("image_url", _, Some(ImageUrl::Bare(url) | ImageUrl::Object { url })) => {
                    self.images.push(image(url, || format!("{place}[{index}].image_url.url"))?);
                    self.tokens += TOKENS_PER_IMAGE;
                }
                ("image_url", _, None) => {
                    return Err(Refusal::at(format!("{place}[{index}].image_url"), "The image is missing."));
                }
                _ => {}
            }
        }
        Ok(texts.join(" "))
    }
}

/// Says what an image URL holds. Only data URIs are looked into; nothing is fetched.
fn image(url: &str, place: impl Fn() -> String) -> Result<String, Refusal> {
    let Some(data) = url.strip_prefix("data:") else {
        return Ok("an image at a URL, which I do not fetch".to_owned());
    };
    let Some((kind, payload)) = data.split_once(";base64,") else {
        return Err(Refusal::at(place(), "The data URI has no base64 payload."));
    };
    let bytes = base64_simd::STANDARD
        .decode_to_vec(payload)
        .map_err(|_| Refusal::at(place(), "The payload of the data URI is not base64."))?;
    let kind = kind.split(';').next().filter(|kind| !kind.is_empty()).unwrap_or("image");
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    Ok(format!("{article} {kind} of {} bytes", bytes.len()))
}
