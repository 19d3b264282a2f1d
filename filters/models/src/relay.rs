//! A stream on its way to the client: events in, events out.

mod out;

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use dgx_gateway_filter::facts::{FinishReasons, Report, Usage};
use dgx_gateway_filter::{ErrorCode, FilterError};
use dgx_gateway_wire::answer::{
    Choices, Chunk, ChunkKind, ChunkReader, Repeated, Rules, Stamp, StreamKind, later_usage,
};
use dgx_gateway_wire::errors::envelope::Responses;
use dgx_gateway_wire::sse::{Event, Framer};

use self::out::Out;
use crate::cost::Account;
use crate::dialect::StreamForm;

/// Longest event that is passed on: an image in one event fits.
pub(crate) const MAX_EVENT_BYTES: usize = 32 * 1024 * 1024;

/// Most that is held before the first event that means something: as much as one event.
const MAX_HELD_BYTES: usize = MAX_EVENT_BYTES;

/// The marker that ends a stream, however the upstream wrote it.
const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// Rewrites the stream of one attempt.
pub(crate) struct Relay {
    framer: Framer,
    reader: ChunkReader,
    model: Arc<str>,
    client_wants_usage: bool,
    form: StreamForm,
    /// Says errors after what has left, where the events are numbered.
    errors: Responses,
    /// Events before the first one that means something; they leave with it.
    held: BytesMut,
    begun: bool,
    left: bool,
    finished: bool,
    /// Choices seen, and those that stated why they ended.
    choices: Choices,
    ended: Choices,
    done: bool,
    /// Bytes of the event that ends the stream, once it is about to leave.
    ending: Option<usize>,
    usage: Option<Usage>,
    /// What all chunks of the stream have in common.
    stamp: Stamp,
    /// Where what is received is accounted.
    account: Option<Account>,
    /// How the cost is told, until it has been.
    cost: Option<StreamKind>,
}

impl Relay {
    pub(crate) fn new(model: Arc<str>, client_wants_usage: bool, form: StreamForm) -> Self {
        Self {
            framer: Framer::new(MAX_EVENT_BYTES),
            reader: ChunkReader::default(),
            model,
            client_wants_usage,
            form,
            errors: Responses::default(),
            held: BytesMut::new(),
            begun: false,
            left: false,
            finished: false,
            choices: Choices::default(),
            ended: Choices::default(),
            done: false,
            ending: None,
            usage: None,
            stamp: Stamp::default(),
            account: None,
            cost: None,
        }
    }

    /// Accounts what is received. With a kind of stream the cost is told in it, too.
    pub(crate) fn accounted(mut self, account: Option<Account>, cost: Option<StreamKind>) -> Self {
        self.account = account;
        self.cost = cost;
        self
    }

    /// What the upstream reported so far.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// How many bytes at the end of what [`Relay::pass`] has just given are those that end the stream, once they are.
    pub(crate) fn take_ending(&mut self) -> Option<usize> {
        self.ending.take()
    }

    /// What says an error in a stream of responses, with the number that is next.
    pub(crate) fn errors(&self) -> Responses {
        self.errors.clone()
    }

    /// Something of it has left.
    pub(crate) fn left(&self) -> bool {
        self.left
    }

    /// Nothing of the answer is missing: every choice has ended, or the marker or the last event came.
    pub(crate) fn complete(&self) -> bool {
        match self.form {
            StreamForm::Chunks => self.done || self.finished && self.choices.within(self.ended),
            StreamForm::Events => self.finished,
        }
    }

    /// Takes a piece and puts in its place what can leave. After an error the stream is of no use; what stands in
    /// `part` then came before it and still leaves.
    pub(crate) fn pass(&mut self, part: &mut Option<Bytes>, end: bool) -> Result<(), FilterError> {
        let mut out = Out::default();
        let passed = self.events(part.take(), end, &mut out);
        *part = out.take();
        self.left |= self.begun && passed.is_ok();
        passed
    }

    fn events(&mut self, piece: Option<Bytes>, end: bool, out: &mut Out) -> Result<(), FilterError> {
        if let Some(piece) = piece {
            self.framer.push(piece);
            while let Some(raw) = self.framer.next_raw() {
                match raw {
                    Ok(raw) => match self.reader.repeated(&raw) {
                        Some(repeated) => self.more_text(repeated, out)?,
                        None => self.event(&Event::parse(raw), out)?,
                    },
                    // once nothing is missing, what follows is dropped, whatever it is
                    Err(_) if self.complete() => return Ok(()),
                    Err(error) => return Err(unusable().source(error)),
                }
            }
        }
        if end {
            while let Some(event) = self.framer.finish() {
                self.event(&event, out)?;
            }
            if !self.complete() {
                return Err(unusable());
            }
            self.tell_cost(out);
        }
        Ok(())
    }

    /// A chunk that brings the next piece of text and nothing else: what [`Relay::event`] would do with it, as far as
    /// anything is left of that.
    fn more_text(&mut self, repeated: Repeated, out: &mut Out) -> Result<(), FilterError> {
        if self.done || self.form == StreamForm::Events && self.finished {
            return Ok(());
        }
        if let Some(account) = &self.account {
            account.meter.add_text(repeated.text_bytes);
        }
        self.choices = self.choices.and(repeated.choices);
        self.errors.set_next(self.errors.next().saturating_add(1));
        self.begun = true;
        self.leave(repeated.event, out)
    }

    fn event(&mut self, event: &Event, out: &mut Out) -> Result<(), FilterError> {
        // without data it is no event (a reader of the specification drops it, others trip over it)
        if event.data.is_empty() || self.done {
            return Ok(());
        }
        let rules = Rules { model: &self.model, client_wants_usage: self.client_wants_usage };
        let rewritten = self.reader.rewrite(event, &rules);
        let chunk = rewritten.chunk;
        if self.form == StreamForm::Events && (self.finished || chunk.kind == ChunkKind::Done) {
            return Ok(()); // nothing follows the last event, and there is no marker
        }
        if chunk.failed && !self.begun {
            return Err(unusable());
        }
        if is_broken(event, chunk.kind) {
            // once nothing is missing, what follows is dropped, whatever it is
            return if self.complete() { Ok(()) } else { Err(unusable()) };
        }
        self.usage = later_usage(self.usage, chunk.usage);
        self.book(event, &chunk);
        // after the finish only usage and the marker may follow; some servers report usage on a chunk with an empty choice
        let after_finish = self.finished && chunk.choices.within(self.ended);
        self.choices = self.choices.and(chunk.choices);
        self.ended = self.ended.and(chunk.ended);
        match chunk.kind {
            ChunkKind::Done => {
                self.done = true;
                // a marker after nothing is no answer
                if !self.finished && !self.begun {
                    return Err(unusable());
                }
            }
            ChunkKind::Content | ChunkKind::Error | ChunkKind::Other | ChunkKind::UsageOnly => {
                self.finished |= chunk.finished;
            }
        }
        if chunk.kind == ChunkKind::Done || after_finish && !chunk.semantic && chunk.usage.is_some() {
            self.tell_cost(out);
        }
        // text that follows a finish passes: some servers state a finish on every chunk
        let trails = after_finish && !chunk.semantic && chunk.kind != ChunkKind::Done;
        if rewritten.drop || trails && !(self.client_wants_usage && chunk.usage.is_some()) {
            return Ok(());
        }
        let bytes = match chunk.kind {
            ChunkKind::Done => DONE,
            _ => event.in_one_line(rewritten.data),
        };
        self.errors.set_next(chunk.sequence_number.unwrap_or_else(|| self.errors.next()).saturating_add(1));
        self.begun |= chunk.semantic || chunk.finished || self.done;
        if self.done || self.form == StreamForm::Events && self.finished {
            self.ending = Some(bytes.len());
        }
        self.leave(bytes, out)
    }

    /// Lets those go that were held.
    fn release(&mut self, out: &mut Out) {
        if !self.held.is_empty() {
            out.push(std::mem::take(&mut self.held).freeze());
        }
    }

    /// Lets an event go, with those before it; until something means something they are held.
    fn leave(&mut self, bytes: Bytes, out: &mut Out) -> Result<(), FilterError> {
        if self.begun {
            self.release(out);
            out.push(bytes);
            return Ok(());
        }
        if self.held.len() + bytes.len() > MAX_HELD_BYTES {
            return Err(unusable());
        }
        self.held.put(bytes);
        Ok(())
    }
}

impl Relay {
    /// Notes what a chunk brings.
    fn book(&mut self, event: &Event, chunk: &Chunk) {
        let Some(account) = &self.account else { return };
        account.meter.add_text(chunk.text_bytes);
        if chunk.reasons != FinishReasons::default() {
            account.meter.finished(chunk.reasons);
        }
        if chunk.usage.is_some() || chunk.cost_usd.is_some() || chunk.images > 0 {
            account.meter.report(Report {
                usage: self.usage,
                cost_usd: chunk.cost_usd.clone(),
                images: chunk.images,
                seconds: None,
            });
        }
        if self.cost.is_some() && self.stamp.is_empty() {
            self.stamp = Stamp::of_chunk(&event.data);
        }
    }

    /// Tells the cost, once the answer is complete: behind its last chunk, and before usage and marker.
    fn tell_cost(&mut self, out: &mut Out) {
        if let (Some(account), Some(kind)) = (&self.account, self.cost.take()) {
            let event = account.event(kind, &self.stamp, &self.model, self.client_wants_usage);
            self.begun = true;
            self.release(out);
            out.push(event);
        }
    }
}

/// Whether an event reports a failure, or cannot be read at all.
pub(crate) fn is_broken(event: &Event, kind: ChunkKind) -> bool {
    matches!(kind, ChunkKind::Error | ChunkKind::Other) || event.name.as_deref() == Some(b"error")
}

pub(crate) fn unusable() -> FilterError {
    FilterError::upstream(ErrorCode::UpstreamError, "The upstream broke off its answer.")
}

#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
mod events_tests;
#[cfg(test)]
mod oracle;

#[cfg(test)]
mod tests;
