//! `POST /v1/embeddings`: unit vectors made from a hash of the text. Equal texts have equal vectors;
//! nothing else is meant by them.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Refusal, read};
use crate::usage::{Usage, tokens};

/// Numbers per vector, as many as in common small embedding models.
const DIMENSIONS: usize = 768;

/// Most elements of one request, as at OpenAI.
const MAX_INPUTS: usize = 2048;

#[derive(Deserialize)]
struct Request {
    model: String,
    input: Input,
    #[serde(default)]
    encoding_format: Encoding,
    #[serde(default)]
    dimensions: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    Base64,
    #[default]
    Float,
}

/// Text, tokens, or a list of either.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u64>),
    TokenLists(Vec<Vec<u64>>),
}

/// One element of an input: the text it stands for and what it costs.
pub(crate) struct Element {
    pub(crate) text: String,
    pub(crate) tokens: usize,
}

impl Input {
    /// The elements; a list of tokens becomes a text of numbers that costs one token per number.
    pub(crate) fn elements(self) -> Vec<Element> {
        match self {
            Self::Text(text) => vec![Element::text(text)],
            Self::Texts(texts) => texts.into_iter().map(Element::text).collect(),
            Self::Tokens(tokens) => vec![Element::tokens(&tokens)],
            Self::TokenLists(lists) => lists.iter().map(|tokens| Element::tokens(tokens)).collect(),
        }
    }
}

impl Element {
    fn text(text: String) -> Self {
        Self { tokens: tokens(&text), text }
    }

    fn tokens(tokens: &[u64]) -> Self {
        let text = tokens.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        Self { text, tokens: tokens.len() }
    }
}

#[derive(Serialize)]
pub(crate) struct Answer {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Base64(String),
    Float(Vec<f32>),
}

pub(crate) async fn handle(body: Result<Bytes, BytesRejection>) -> Result<Json<Answer>, Refusal> {
    let request: Request = read(body)?;
    let dimensions = request.dimensions.unwrap_or(DIMENSIONS);
    if !(1..=DIMENSIONS).contains(&dimensions) {
        return Err(Refusal::at("dimensions", format!("`dimensions` must lie between 1 and {DIMENSIONS}.")));
    }
    let elements = request.input.elements();
    if elements.is_empty() || elements.len() > MAX_INPUTS {
        return Err(Refusal::at("input", format!("`input` must have 1 to {MAX_INPUTS} elements.")));
    }
    if let Some(index) = elements.iter().position(|element| element.text.is_empty()) {
        return Err(Refusal::at(format!("input[{index}]"), "An element of `input` is empty."));
    }
    let usage = Usage::read_only(elements.iter().map(|element| element.tokens).sum());
    let data = elements.iter().enumerate().map(|(index, element)| Embedding {
        object: "embedding",
        index,
        embedding: encode(unit_vector(&element.text, dimensions), request.encoding_format),
    });
    Ok(Json(Answer { object: "list", data: data.collect(), model: request.model, usage }))
}

fn encode(vector: Vec<f32>, encoding: Encoding) -> Vector {
    match encoding {
        Encoding::Float => Vector::Float(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
            Vector::Base64(base64_simd::STANDARD.encode_to_string(bytes))
        }
    }
}

/// SHA-256 in counter mode gives the components; the vector is scaled to length 1.
fn unit_vector(text: &str, dimensions: usize) -> Vec<f32> {
    let seed = Sha256::new().chain_update(text);
    let raw: Vec<f32> = (0_u32..)
        .flat_map(|block| {
            let digest: [u8; 32] = seed.clone().chain_update(block.to_le_bytes()).finalize().into();
            digest
        })
        .map(|byte| f32::from(byte) - 127.5)
        .take(dimensions)
        .collect();
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.into_iter().map(|x| x / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_depend_on_the_text_alone() {
        let vector = unit_vector("hello", DIMENSIONS);
        assert_eq!(vector.len(), DIMENSIONS);
        assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
        assert_eq!(vector, unit_vector("hello", DIMENSIONS));
        assert_ne!(vector, unit_vector("hello ", DIMENSIONS));
    }
}
