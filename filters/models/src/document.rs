//! A request that is a JSON document: what was sent, and what changes in it for each entry.

use std::sync::Arc;

use bytes::Bytes;
use dgx_gateway_filter::body::Patch;
use dgx_gateway_filter::facts::{Principal, WorstCase};
use dgx_gateway_filter::tenant_config::TenantSettings;
use dgx_gateway_filter::{ErrorCode, FilterError, Rope};
use dgx_gateway_wire::errors::PromptCount;
use dgx_gateway_wire::request::{Kind, Member, Scan, patch};

use crate::applied::Sent;
use crate::backend::Protocol;
use crate::catalog::{Entry, Model};
use crate::dialect::{self, StreamForm};
use crate::embeddings;
use crate::max_tokens::{Applied, Bounds};
use crate::service::Models;
use crate::{tokenize, worst_case};

/// A scanned document, and what is known of its size.
pub(crate) struct Document {
    protocol: Protocol,
    wanted: Wanted,
    scan: Arc<Scan>,
    sent: Sent,
    /// What changes in an embedding request, whoever serves it.
    embeddings: Vec<Patch>,
    token_ceiling: Option<u32>,
    /// Prompt tokens as a backend counted them, and its name of the model.
    exact: Option<(Arc<str>, u64)>,
    /// Tokens that an entry has left as it said itself when it refused, and its position.
    corrected: Option<(usize, u64)>,
    pub(crate) stream: bool,
    pub(crate) client_wants_usage: bool,
}

/// The model that is wanted, and what the tenant adds to requests for images that leave it open.
pub(crate) struct Wanted {
    pub(crate) slug: String,
    /// Where the request names it.
    name: Option<Member>,
    /// Size of images.
    size: Option<Arc<str>>,
}

impl Wanted {
    /// As a scanned document says, else as the tenant says.
    pub(crate) fn of(
        protocol: Protocol,
        scan: &Scan,
        body: &Rope,
        settings: &TenantSettings,
    ) -> Result<Self, FilterError> {
        let is_open = |member: &Option<Member>| member.as_ref().is_none_or(|member| member.kind == Kind::Null);
        let size = (protocol == Protocol::Images && is_open(&scan.size)).then(|| Arc::clone(&settings.image_gen_size));
        let name = scan.model.clone();
        let slug = match &name {
            Some(name) if name.kind != Kind::Null => patch::read_string(body, name).unwrap_or_default(),
            _ if protocol == Protocol::Images => settings.image_gen_model.to_string(),
            _ => return Err(FilterError::internal("a body without a model passed")),
        };
        Ok(Self { slug, name, size })
    }

    /// What changes for an entry that knows the model by this name.
    fn patches(&self, scan: &Scan, model: &str) -> Vec<Patch> {
        let (mut patches, mut added) = (Vec::new(), Vec::new());
        let mut set = |name: &str, member: Option<&Member>, value: &str| {
            let value = serde_json::to_string(value).unwrap_or_default();
            match member {
                Some(member) => patches.push(patch::replace(member, Bytes::from(value))),
                None => added.push(format!("\"{name}\":{value}")),
            }
        };
        let is_named = self.name.as_ref().is_some_and(|name| name.kind != Kind::Null);
        if !is_named || *model != *self.slug {
            set("model", self.name.as_ref(), model);
        }
        if let Some(size) = &self.size {
            set("size", scan.size.as_ref(), size);
        }
        if !added.is_empty() {
            patches.push(patch::append_member(scan, &added.join(",")));
        }
        patches
    }
}

impl Document {
    /// Checks what depends on the model.
    pub(crate) fn of(
        protocol: Protocol,
        scan: Arc<Scan>,
        wanted: Wanted,
        body: &Rope,
        model: &Model,
        principal: Option<&Principal>,
    ) -> Result<Self, FilterError> {
        let embeddings = match protocol {
            Protocol::Embeddings => embeddings::check(&scan, body, &model.embedding)?,
            _ => Vec::new(),
        };
        Ok(Self {
            protocol,
            embeddings,
            sent: if protocol.writes_text() { Sent::read(&scan, body, protocol)? } else { Sent::default() },
            token_ceiling: principal.and_then(|principal| principal.max_tokens),
            exact: None,
            corrected: None,
            stream: protocol.writes_text() && is_true(scan.stream.as_ref(), body),
            client_wants_usage: is_true(scan.include_usage.as_ref(), body),
            wanted,
            scan,
        })
    }

    /// Estimated tokens of the prompt.
    pub(crate) fn prompt_estimate(&self) -> u64 {
        self.scan.estimated_prompt_tokens()
    }

    /// The most that the call may use, whichever entry serves it.
    pub(crate) fn worst_case(&self, model: &Model, entries: &[Arc<Entry>], body: &Rope) -> WorstCase {
        let most = |(index, entry): (usize, &Arc<Entry>)| {
            self.sent.asked(self.bounds(model, entry, self.left(model, index, entry).ok().flatten()))
        };
        let choices = worst_case::choices(self.scan.n.as_ref(), body);
        let output = self.protocol.writes_text().then(|| worst_case::Output {
            max_tokens: entries.iter().enumerate().filter_map(most).max(),
            model_ceiling: model.max_output_tokens,
            choices,
        });
        worst_case::of(body, output, if self.protocol == Protocol::Images { choices } else { 0 })
    }

    /// Everything that changes in the body for the entry at a position, in order.
    pub(crate) fn patches(
        &self,
        model: &Model,
        index: usize,
        entry: &Entry,
    ) -> Result<(Vec<Patch>, Applied), FilterError> {
        let bounds = self.bounds(model, entry, self.left(model, index, entry)?);
        let (mut patches, applied) = match self.protocol {
            protocol if protocol.writes_text() => self.sent.patches(&self.scan, bounds),
            _ => (self.embeddings.clone(), Applied::Unchanged),
        };
        patches.extend(self.wanted.patches(&self.scan, &entry.model));
        if self.protocol == Protocol::Responses {
            patches.push(dialect::keep_nothing(&self.scan));
        }
        if self.stream && !self.client_wants_usage && self.protocol.stream_form() == StreamForm::Chunks {
            patches.push(self.ask_for_usage());
        }
        patches.sort_by_key(|patch| patch.range.start);
        Ok((patches, applied))
    }

    /// Asks the first entry that counts exactly; one that does not answer costs one wait, not one per entry.
    pub(crate) async fn count_exactly(&mut self, service: &Models, entries: &[Arc<Entry>], body: &Rope) {
        let Some(entry) = entries.iter().find(|entry| entry.backend.exact_tokens) else { return };
        let count = tokenize::count(service, entry, &self.scan, body, self.protocol).await;
        self.exact = count.map(|count| (Arc::clone(&entry.model), count));
    }

    fn bounds(&self, model: &Model, entry: &Entry, left: Option<u64>) -> Bounds {
        Bounds {
            floor: model.min_max_tokens.max(entry.floor),
            token_ceiling: self.token_ceiling,
            model_ceiling: model.max_output_tokens,
            left,
        }
    }

    /// An entry refused for length and said how large the prompt is: whether a smaller `max_tokens` fits it. Asked
    /// once per entry, because a second refusal would be about the same numbers.
    pub(crate) fn shorten(&mut self, model: &Model, index: usize, entry: &Entry, counted: PromptCount) -> bool {
        let window = counted.window.or_else(|| entry.max_model_len());
        let Some(left) = window.and_then(|window| window.checked_sub(counted.prompt)) else { return false };
        let floor = model.min_max_tokens.max(entry.floor).map_or(0, u64::from);
        let was_corrected = self.corrected.is_some_and(|(corrected, _)| corrected == index);
        if was_corrected || left < floor.max(1) {
            return false;
        }
        let Ok(before) = self.left(model, index, entry) else { return false };
        let asked = |left| self.sent.asked(self.bounds(model, entry, left));
        if asked(Some(left)) >= asked(before) {
            return false;
        }
        self.corrected = Some((index, left));
        true
    }

    /// Tokens left in the context of an entry. With an exact count, too few of them are an error; with an
    /// estimate the upstream decides.
    fn left(&self, model: &Model, index: usize, entry: &Entry) -> Result<Option<u64>, FilterError> {
        if let Some((_, left)) = self.corrected.filter(|(corrected, _)| *corrected == index) {
            return Ok(Some(left));
        }
        let Some(window) = entry.max_model_len() else { return Ok(None) };
        let exact = self.exact.as_ref().filter(|(model, _)| *model == entry.model).map(|(_, count)| *count);
        let left = window.saturating_sub(exact.unwrap_or_else(|| self.scan.estimated_prompt_tokens()));
        let floor = model.min_max_tokens.max(entry.floor).map_or(0, u64::from);
        if exact.is_some() && left < floor.max(1) {
            let message = format!("The prompt does not fit the context of this model: {window} tokens.");
            return Err(
                FilterError::client(ErrorCode::ContextLengthExceeded, message).param(self.protocol.prompt_member())
            );
        }
        Ok(Some(left))
    }

    /// The gateway always asks for usage; whether the client sees it is another matter.
    fn ask_for_usage(&self) -> Patch {
        const ASKED: &str = "\"include_usage\":true";
        let scan = &self.scan;
        match (&scan.include_usage, &scan.stream_options) {
            (Some(member), _) => patch::replace(member, Bytes::from_static(b"true")),
            (None, Some(options)) => patch::append_stream_option(scan, ASKED)
                .unwrap_or_else(|| patch::replace(options, Bytes::from(format!("{{{ASKED}}}")))),
            (None, None) => patch::append_member(scan, &format!("\"stream_options\":{{{ASKED}}}")),
        }
    }
}

fn is_true(member: Option<&Member>, body: &Rope) -> bool {
    member.is_some_and(|member| *body.read(member.value.clone()) == *b"true")
}
