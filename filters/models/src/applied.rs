//! Patches of `max_tokens`, and the headers that say so.

use bytes::Bytes;
use dgx_gateway_filter::body::{Patch, Rope};
use dgx_gateway_filter::{ErrorCode, FilterError};
use dgx_gateway_wire::request::{Kind, Member, Scan, patch};
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{DictSerializer, Integer, KeyRef};

use crate::max_tokens::{Applied, Bounds};

/// Both names of the header, newest first.
const HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("spass-applied"), HeaderName::from_static("x-rust-api-applied")];
const CLAMPED: &KeyRef = KeyRef::constant("max_tokens_clamped");
const FLOORED: &KeyRef = KeyRef::constant("max_tokens_floored");
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

    /// The most that an attempt asks for; `None` when it leaves that to the upstream.
    pub(crate) fn asked(&self, bounds: Bounds) -> Option<u64> {
        let sent = [&self.max_tokens, &self.max_completion_tokens].into_iter().flatten();
        let largest = sent.map(|(_, value)| bounds.value(*value)).max();
        largest.or_else(|| bounds.absent())
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
    match told(applied) {
        None => HEADERS.iter().for_each(|name| drop(headers.remove(name))),
        Some(value) => HEADERS.into_iter().for_each(|name| drop(headers.insert(name, value.clone()))),
    }
}

/// A structured dictionary (RFC 8941) of one member.
fn told(applied: Applied) -> Option<HeaderValue> {
    let (key, value) = match applied {
        Applied::Clamped(value) => (CLAMPED, value),
        Applied::Floored(value) => (FLOORED, value),
        Applied::Unchanged => return None,
    };
    let mut dictionary = DictSerializer::new();
    let _parameters = dictionary.bare_item(key, Integer::try_from(value).ok()?);
    HeaderValue::from_str(&dictionary.finish()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sfv::{BareItem, Dictionary, ListEntry, Parser};

    #[test]
    fn what_was_changed_is_read_back_as_a_dictionary_under_both_names() {
        for (applied, key, value) in [
            (Applied::Floored(200), "max_tokens_floored", 200),
            (Applied::Clamped(1072), "max_tokens_clamped", 1072),
            (Applied::Clamped(2_147_483_647), "max_tokens_clamped", 2_147_483_647),
        ] {
            let mut headers = HeaderMap::new();
            announce(applied, &mut headers);
            assert_eq!(headers.len(), 2);
            for name in ["spass-applied", "x-rust-api-applied"] {
                assert_eq!(headers[name], format!("{key}={value}"));
                let read: Dictionary = Parser::new(headers[name].to_str().unwrap()).parse().unwrap();
                let Some(ListEntry::Item(item)) = read.get(key) else { panic!("{read:?}") };
                assert_eq!((read.len(), &item.bare_item), (1, &BareItem::Integer(value.into())));
            }
        }
    }

    #[test]
    fn an_attempt_that_changes_nothing_takes_back_what_an_earlier_one_said() {
        let mut headers = HeaderMap::new();
        announce(Applied::Clamped(7), &mut headers);
        announce(Applied::Unchanged, &mut headers);
        assert!(headers.is_empty());
    }
}
