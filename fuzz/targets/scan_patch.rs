//! The request scan against `serde_json`: the same verdict on every input, the same facts wherever it is cut, and
//! patches that change in the text what the same change does in the tree.

#![no_main]

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use dgx_gateway_filter::body::{Patch, Rope};
use dgx_gateway_wire::request::{Protocol, Scan, ScanError, Scanner, patch};
use fuzzing::Numbers;
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let mut numbers = Numbers::of(input);
    let accepted = serde_json::from_slice::<Distinct>(input).is_ok();
    for protocol in [Protocol::Chat, Protocol::Completions, Protocol::Embeddings] {
        let whole = scan(protocol, [input]);
        assert_eq!(whole.is_ok(), accepted, "{protocol:?}: {whole:?}");
        assert_eq!(scan(protocol, numbers.pieces(input)), whole, "cut elsewhere");
        match &whole {
            Ok(found) => patches(found, input, &mut numbers),
            Err(error) => {
                let (before, _) = input.split_at(error.offset.min(input.len()));
                assert!(Scanner::new(protocol).push(before).is_ok(), "refused before the byte that it names");
            }
        }
    }
});

fn scan<'a>(protocol: Protocol, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Scan, ScanError> {
    let mut scanner = Scanner::new(protocol);
    for piece in pieces {
        scanner.push(piece)?;
    }
    scanner.finish()
}

fn patches(scan: &Scan, input: &[u8], numbers: &mut Numbers) {
    let body = rope(numbers.pieces(input));
    let tree: Value = serde_json::from_slice(input).expect("an accepted body is JSON");

    let mut changed = tree.clone();
    let mut patches = Vec::new();
    for (member, name, new) in
        [(&scan.model, "model", "\"other\""), (&scan.max_tokens, "max_tokens", "17"), (&scan.stream, "stream", "[{}]")]
    {
        if let Some(member) = member {
            patches.push(patch::replace(member, Bytes::from_static(new.as_bytes())));
            changed[name] = serde_json::from_str(new).expect("valid");
        }
    }
    if let Some(option) = patch::append_stream_option(scan, r#""include_usage":true"#) {
        patches.push(option);
        changed["stream_options"]["include_usage"] = true.into();
    }
    patches.push(patch::append_member(scan, r#""added":1,"again":"ü""#));
    changed["added"] = 1.into();
    changed["again"] = "ü".into();
    patches.sort_by_key(|patch| patch.range.start);
    same(&body.patched(&patches), &changed);

    for (member, name) in [(&scan.user_id, "user_id"), (&scan.tools, "tools"), (&scan.n, "n")] {
        if let Some(member) = member {
            let mut changed = tree.clone();
            changed.as_object_mut().expect("an object").remove(name);
            let one: [Patch; 1] = [patch::remove_member(scan, &body, member)];
            same(&body.patched(&one), &changed);
        }
    }
    if let Some(model) = &scan.model {
        assert_eq!(patch::read_string(&body, model).as_deref(), tree["model"].as_str());
    }
    if let Some(max_tokens) = &scan.max_tokens {
        let text = &input[max_tokens.value.clone()];
        let expected = tree["max_tokens"].as_i64().filter(|_| text != b"-0");
        assert_eq!(patch::read_integer(&body, max_tokens).ok(), expected);
    }
}

fn same(patched: &Rope, expected: &Value) {
    let text = patched.parts().concat();
    let found: Value = serde_json::from_slice(&text).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&text));
    });
    assert_eq!(found, *expected);
}

fn rope(pieces: Vec<&[u8]>) -> Rope {
    let mut rope = Rope::new();
    pieces.into_iter().for_each(|piece| rope.push(Bytes::copy_from_slice(piece)));
    rope
}

/// An object whose members on the top level are distinct after unescaping.
struct Distinct;

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DistinctVisitor)
    }
}

struct DistinctVisitor;

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Distinct;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with distinct members")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Distinct, A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name) {
                return Err(A::Error::custom("duplicate member"));
            }
            map.next_value::<Value>()?;
        }
        Ok(Distinct)
    }
}
