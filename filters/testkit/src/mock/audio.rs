//! Answers of the audio endpoints: they tell what arrived of the form.

use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// A form, as a server without limits reads it.
#[derive(Debug, Default)]
pub(super) struct FormData {
    fields: Map<String, Value>,
    /// Name, content type, size and SHA-256.
    file: Value,
}

impl FormData {
    /// Reads a form whose first line is its boundary; `None` when the body is something else, or is cut.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let line = memmem::find(body, b"\r\n")?;
        let delimiter = [b"\r\n", body.get(..line).filter(|line| line.starts_with(b"--"))?].concat();
        let mut form = Self::default();
        let mut rest = body.get(line..)?;
        while !rest.starts_with(b"--") {
            let head = memmem::find(rest, b"\r\n\r\n")?;
            let length = memmem::find(rest.get(head + 4..)?, &delimiter)?;
            form.part(std::str::from_utf8(rest.get(2..head)?).ok()?, rest.get(head + 4..)?.get(..length)?);
            rest = rest.get(head + 4 + length + delimiter.len()..)?;
        }
        Some(form)
    }

    fn part(&mut self, head: &str, content: &[u8]) {
        let parameter = |name: &str| head.split_once(&format!("; {name}=\""))?.1.split('"').next();
        let Some(name) = parameter("name") else { return };
        if let Some(file) = parameter("filename") {
            let digest = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            self.file = json!({"part": name, "name": file, "length": content.len(), "sha256": digest});
        } else {
            self.fields.insert(name.to_owned(), String::from_utf8_lossy(content).into());
        }
    }

    /// The value of a field, or nothing.
    pub(super) fn field(&self, name: &str) -> &str {
        self.fields.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Content type and body of a whole answer.
    pub(super) fn whole(&self, text: &str) -> (&'static str, Bytes) {
        let cue = format!("00:00:00,000 --> 00:00:01,000\n{text}\n");
        match self.field("response_format") {
            "text" => ("text/plain; charset=utf-8", Bytes::from(format!("{text}\n"))),
            "srt" => ("application/x-subrip", format!("1\n{cue}\n").into()),
            "vtt" => ("text/vtt", format!("WEBVTT\n\n{}\n", cue.replace(',', ".")).into()),
            _ => {
                let body = json!({"text": text, "file": self.file, "fields": self.fields});
                ("application/json", body.to_string().into())
            }
        }
    }

    /// The events of a stream: a delta per piece, then the whole text.
    pub(super) fn events(&self, pieces: &[String]) -> Vec<(Duration, Bytes)> {
        let event = |value: Value| (Duration::ZERO, Bytes::from(format!("data: {value}\n\n")));
        let deltas = pieces.iter().map(|piece| json!({"type": "transcript.text.delta", "delta": piece}));
        let done = json!({"type": "transcript.text.done", "text": pieces.concat()});
        deltas.chain([done]).map(event).collect()
    }
}
