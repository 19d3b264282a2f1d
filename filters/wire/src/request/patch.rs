//! Splices of a held body, made from what the scan found, and reading of single values.
//!
//! Several patches of one body have to be ordered by offset, as [`Rope::patched`] asks.

use bytes::Bytes;
use dgx_gateway_filter::body::{Patch, Rope};

use super::scan::{Member, Scan};

/// The value is no integer literal within 64 bits: another kind, a fraction, an exponent, or `-0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an integer")]
pub struct NotAnInteger;

/// Replaces the value of a member by another JSON text.
#[must_use]
pub fn replace(member: &Member, with: Bytes) -> Patch {
    Patch { range: member.value.clone(), with }
}

/// Appends members to the top-level object. `json_member` is `"name":value`, or several of them with commas between;
/// in one call, because the patch does not know of others at its place.
#[must_use]
pub fn append_member(scan: &Scan, json_member: &str) -> Patch {
    append(scan.close, scan.is_empty_object, json_member)
}

/// Appends members to `stream_options`, like [`append_member`]; nothing if the body has no such object.
#[must_use]
pub fn append_stream_option(scan: &Scan, json_member: &str) -> Option<Patch> {
    Some(append(scan.stream_options_close?, scan.stream_options_is_empty, json_member))
}

fn append(close: usize, is_empty: bool, json_member: &str) -> Patch {
    let comma = if is_empty { "" } else { "," };
    Patch { range: close..close, with: Bytes::from(format!("{comma}{json_member}")) }
}

/// Removes a member of the top-level object together with the comma beside it.
#[must_use]
pub fn remove_member(scan: &Scan, rope: &Rope, member: &Member) -> Patch {
    let next = skip_blanks(rope, member.value.end, scan.close);
    if *rope.read(next..next + 1) == *b"," {
        return Patch { range: member.key.start..next + 1, with: Bytes::new() };
    }
    // the last member: the comma stands before it, unless it is the only one
    let before = (0..member.key.start).rev().find(|at| !is_blank(&rope.read(*at..*at + 1)));
    let start = before.filter(|at| *rope.read(*at..*at + 1) == *b",").unwrap_or(member.key.start);
    Patch { range: start..member.value.end, with: Bytes::new() }
}

fn skip_blanks(rope: &Rope, from: usize, end: usize) -> usize {
    (from..end).find(|at| !is_blank(&rope.read(*at..*at + 1))).unwrap_or(end)
}

fn is_blank(byte: &[u8]) -> bool {
    matches!(byte, b" " | b"\t" | b"\n" | b"\r")
}

/// The value of a member, unescaped; nothing if it is no string.
#[must_use]
pub fn read_string(rope: &Rope, member: &Member) -> Option<String> {
    serde_json::from_slice(&rope.read(member.value.clone())).ok()
}

/// The value of a member that is an integer literal.
///
/// # Errors
///
/// The value is anything else (`1.5`, `200.0`, `1e3`, `"100"`, `-0`), or does not fit. Client to blame.
pub fn read_integer(rope: &Rope, member: &Member) -> Result<i64, NotAnInteger> {
    let raw = rope.read(member.value.clone());
    if *raw == *b"-0" {
        return Err(NotAnInteger);
    }
    serde_json::from_slice(&raw).map_err(|_| NotAnInteger)
}
