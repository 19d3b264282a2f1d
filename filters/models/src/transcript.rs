//! The events of a transcription on their way to the client, and the two kinds of streams.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dgx_gateway_filter::FilterError;
use dgx_gateway_filter::facts::{Report, Usage};
use dgx_gateway_wire::answer::{Chunk, ChunkKind, Rules, later_usage, rewrite_chunk};
use dgx_gateway_wire::sse::{Event, Framer};
use serde::Deserialize;

use crate::cost::{Account, seconds};
use crate::relay::{MAX_EVENT_BYTES, Relay, is_broken, unusable};

/// The last event of a transcription.
const DONE: &str = "transcript.text.done";

/// A stream of either kind.
pub(crate) enum Streaming {
    /// Chunks of a text.
    Text(Box<Relay>),
    /// Events of a transcription.
    Transcript(Transcript),
}

impl Streaming {
    /// Takes a piece and puts in its place what can leave.
    pub(crate) fn pass(&mut self, part: &mut Option<Bytes>, end: bool) -> Result<(), FilterError> {
        match self {
            Self::Text(relay) => relay.pass(part, end),
            Self::Transcript(transcript) => transcript.pass(part, end),
        }
    }

    /// What the upstream reported so far.
    pub(crate) fn usage(&self) -> Option<Usage> {
        match self {
            Self::Text(relay) => relay.usage(),
            Self::Transcript(transcript) => transcript.usage,
        }
    }

    /// Something of it has left.
    pub(crate) fn left(&self) -> bool {
        match self {
            Self::Text(relay) => relay.left(),
            Self::Transcript(transcript) => transcript.left,
        }
    }

    /// How many bytes at the end of what has just been given are those that end the stream, once they are. Behind the
    /// last event of a transcription a marker may follow, so its end is that of its body.
    pub(crate) fn take_ending(&mut self) -> Option<usize> {
        match self {
            Self::Text(relay) => relay.take_ending(),
            Self::Transcript(_) => None,
        }
    }

    /// Nothing of the answer is missing.
    pub(crate) fn complete(&self) -> bool {
        match self {
            Self::Text(relay) => relay.complete(),
            Self::Transcript(transcript) => transcript.done,
        }
    }
}

/// Passes events on; only the name of the model is changed in them.
pub(crate) struct Transcript {
    framer: Framer,
    model: Arc<str>,
    left: bool,
    done: bool,
    usage: Option<Usage>,
    /// Where what is received is accounted.
    account: Option<Account>,
}

impl Transcript {
    pub(crate) fn new(model: Arc<str>) -> Self {
        Self { framer: Framer::new(MAX_EVENT_BYTES), model, left: false, done: false, usage: None, account: None }
    }

    /// Accounts what is received.
    pub(crate) fn accounted(mut self, account: Option<Account>) -> Self {
        self.account = account;
        self
    }

    fn book(&self, chunk: &Chunk) {
        let Some(account) = &self.account else { return };
        account.meter.add_text(chunk.text_bytes);
        let seconds = chunk.seconds.as_deref().and_then(seconds);
        if chunk.usage.is_some() || seconds.is_some() {
            account.meter.report(Report { usage: self.usage, seconds, ..Report::default() });
        }
    }

    fn pass(&mut self, part: &mut Option<Bytes>, end: bool) -> Result<(), FilterError> {
        let mut out = BytesMut::new();
        let passed = self.events(part.take(), end, &mut out);
        self.left |= !out.is_empty();
        *part = Some(out.freeze()).filter(|out| !out.is_empty());
        passed
    }

    fn events(&mut self, piece: Option<Bytes>, end: bool, out: &mut BytesMut) -> Result<(), FilterError> {
        if let Some(piece) = piece {
            self.framer.push(piece);
            while let Some(event) = self.framer.next_event() {
                self.event(&event.map_err(|error| unusable().source(error))?, out)?;
            }
        }
        if end {
            while let Some(event) = self.framer.finish() {
                self.event(&event, out)?;
            }
            if !self.done {
                return Err(unusable());
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, out: &mut BytesMut) -> Result<(), FilterError> {
        if event.data.is_empty() {
            return Ok(());
        }
        let rewritten = rewrite_chunk(&event.data, &Rules { model: &self.model, client_wants_usage: true });
        self.usage = later_usage(self.usage, rewritten.chunk.usage);
        self.book(&rewritten.chunk);
        match rewritten.chunk.kind {
            of if is_broken(event, of) => return if self.done { Ok(()) } else { Err(unusable()) },
            ChunkKind::Done => self.done = true,
            _ => self.done |= kind(&event.data).as_deref() == Some(DONE),
        }
        out.extend_from_slice(&event.in_one_line(rewritten.data));
        Ok(())
    }
}

/// The type of an event.
fn kind(data: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Typed {
        r#type: String,
    }
    serde_json::from_slice::<Typed>(data).ok().map(|typed| typed.r#type)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        ": comment\n\n",
        "data: {\"type\":\"transcript.text.delta\",\"delta\":\"H\u{e9}\"}\n\n",
        "data: {\"object\":\"transcription.chunk\",\"model\":\"up\",\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n",
        "data: {\"type\":\"transcript.text.done\",\"text\":\"H\u{e9}x\"}\n\n",
        "data: [DONE]\n\n",
    );

    fn run(stream: &str, step: usize) -> Result<String, FilterError> {
        let mut transcript = Transcript::new("slug".into());
        let mut out = Vec::new();
        for piece in stream.as_bytes().chunks(step) {
            let mut part = Some(Bytes::copy_from_slice(piece));
            transcript.pass(&mut part, false)?;
            out.extend(part.unwrap_or_default());
        }
        let mut part = None;
        transcript.pass(&mut part, true)?;
        out.extend(part.unwrap_or_default());
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn events_pass_with_the_name_of_the_client_however_they_are_cut() {
        let expected = STREAM.replace("\"up\"", "\"slug\"").replace(": comment\n\n", "");
        for step in 1..=STREAM.len() {
            assert_eq!(run(STREAM, step).unwrap(), expected, "step {step}");
        }
    }

    #[test]
    fn a_stream_needs_an_end_of_either_kind() {
        let (before, _) = STREAM.split_once("data: {\"type\":\"transcript.text.done").unwrap();
        assert!(run(before, 9).is_err());
        assert!(run(&format!("{before}data: [DONE]\n\n"), 9).is_ok());
        assert!(run(STREAM.strip_suffix("data: [DONE]\n\n").unwrap(), 9).is_ok());
        assert!(run("", 1).is_err());
        assert!(run(&format!("data: {{\"error\":{{\"message\":\"x\"}}}}\n\n{STREAM}"), 9).is_err());
    }
}
