//! Patches of `max_tokens`, and the headers that say so.

use bytes::Bytes;
use dgx_gateway_filter::body::{Patch, Rope};
use dgx_gateway_filter::{ErrorCode, FilterError};
use dgx_gateway_wire::request::{Kind, Member, Scan, patch};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::max_tokens::{Applied, Bounds};

/// Both names of the header, newest first.
const HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("spass-applied"), HeaderName::from_static("x-rust-api-applied")];
/// Largest value of the contract.
const LARGEST: i64 = 2_147_483_647;

/// The limits that a client sent, read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    max_tokens: Option<(Member, u64)>,
    max_completion_tokens: Option<(Member, u64)>,
}

impl Sent {
    /// Reads both members; `null` counts as absent.
    pub(crate) fn read(scan: &Scan, body: &Rope) -> Result<Self, FilterError> {
        Ok(Self {
            max_tokens: read(scan.max_tokens.as_ref(), "max_tokens", body)?,
            max_completion_tokens: read(scan.max_completion_tokens.as_ref(), "max_completion_tokens", body)?,
        })
    }

    /// The most that one attempt asks for; `None` when it asks for no number.
    pub(crate) fn most(&self, bounds: Bounds) -> Option<u64> {
        let effective = |value: u64| match bounds.apply(value) {
            Applied::Clamped(new) | Applied::Floored(new) => new,
            Applied::Unchanged => value,
        };
        let sent = [&self.max_tokens, &self.max_completion_tokens].into_iter().flatten();
        sent.map(|(_, value)| effective(*value)).max().or_else(|| bounds.absent())
    }

    /// The patches for one attempt, and what the headers say about them.
    pub(crate) fn patches(&self, scan: &Scan, bounds: Bounds) -> (Vec<Patch>, Applied) {
        let mut patches = Vec::new();
        let mut said = Applied::Unchanged;
        for (member, value) in [&self.max_tokens, &self.max_completion_tokens].into_iter().flatten() {
            let applied = bounds.apply(*value);
            if let Applied::Clamped(new) | Applied::Floored(new) = applied {
                patches.push(patch::replace(member, number(new)));
                said = applied; // the later one is max_completion_tokens, which the header reports
            }
        }
        if self.max_tokens.is_none()
            && self.max_completion_tokens.is_none()
            && let Some(value) = bounds.absent()
        {
            patches.push(match scan.max_tokens.as_ref() {
                Some(null) => patch::replace(null, number(value)),
                None => patch::append_member(scan, &format!("\"max_tokens\":{value}")),
            });
            said = Applied::Clamped(value);
        }
        (patches, said)
    }
}

fn read(member: Option<&Member>, name: &'static str, body: &Rope) -> Result<Option<(Member, u64)>, FilterError> {
    let Some(member) = member.filter(|member| member.kind != Kind::Null) else { return Ok(None) };
    match patch::read_integer(body, member)
        .ok()
        .filter(|value| (1..=LARGEST).contains(value))
        .and_then(|value| u64::try_from(value).ok())
    {
        Some(value) => Ok(Some((member.clone(), value))),
        None => {
            Err(FilterError::client(ErrorCode::InvalidField, format!("{name} must be an integer from 1 to {LARGEST}."))
                .param(name))
        }
    }
}

fn number(value: u64) -> Bytes {
    Bytes::from(value.to_string())
}

/// Says in the answer what was changed.
pub(crate) fn announce(applied: Applied, headers: &mut HeaderMap) {
    let text = match applied {
        Applied::Clamped(value) => format!("max_tokens_clamped={value}"),
        Applied::Floored(value) => format!("max_tokens_floored={value}"),
        Applied::Unchanged => return HEADERS.iter().for_each(|name| drop(headers.remove(name))),
    };
    if let Ok(value) = HeaderValue::from_str(&text) {
        for name in HEADERS {
            headers.insert(name, value.clone());
        }
    }
}
