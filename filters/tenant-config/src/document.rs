//! Requests: JSON whose members keep their order, and whose numbers keep their digits.

use std::collections::HashSet;
use std::fmt;

use dgx_gateway_filter::FilterError;
use dgx_gateway_filter::tenant_config::Input;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::refusal;

/// Members of an object in their order, each name once.
#[derive(Debug)]
pub(crate) struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The members of a text that is an object.
    ///
    /// # Errors
    /// It is no object, or a name is there twice.
    pub(crate) fn read(json: &'a [u8]) -> Result<Self, FilterError> {
        serde_json::from_slice(json).map_err(|error| refusal::not_json(&error))
    }

    /// The value of a member.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
        let (mut members, mut names) = (Vec::new(), HashSet::new());
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            if !names.insert(name.clone()) {
                return Err(M::Error::custom("a member is there twice"));
            }
            members.push((name, value));
        }
        Ok(Members(members))
    }
}

/// What a JSON text says; `None` when it is none.
pub(crate) fn input(json: &str) -> Option<Input> {
    let raw: &RawValue = serde_json::from_str(json).ok()?;
    let text = raw.get();
    match text.as_bytes().first()? {
        b'n' => Some(Input::Null),
        b't' => Some(Input::Flag(true)),
        b'f' => Some(Input::Flag(false)),
        b'"' => serde_json::from_str(text).ok().map(Input::Text),
        b'[' => {
            let Items(items) = serde_json::from_str(text).ok()?;
            Some(Input::List(items))
        }
        b'{' => Some(Input::Other),
        _ => Some(Input::Number(text.to_owned())),
    }
}

/// Items of a list, whose own members say nothing.
struct Items(Vec<Input>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Items, S::Error> {
        let mut items = Vec::new();
        while let Some(raw) = seq.next_element::<&'de RawValue>()? {
            let text = raw.get();
            // lists hold texts alone: what else an item is does not matter
            items.push(if text.starts_with('"') {
                Input::Text(serde_json::from_str(text).map_err(S::Error::custom)?)
            } else {
                Input::Other
            });
        }
        Ok(Items(items))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_are_there_once() {
        let Members(members) = Members::read(br#" {"b": 1.20, "a": [1], "\u0063": null} "#).unwrap();
        let seen: Vec<_> = members.iter().map(|(name, value)| (name.as_str(), value.get())).collect();
        assert_eq!(seen, [("b", "1.20"), ("a", "[1]"), ("c", "null")]);
        for bad in [r#"{"a": 1, "\u0061": 2}"#, "[]", "5", "", "{", r#"{"a": 1} x"#] {
            assert!(Members::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_what_is_written() {
        let text = |text: &str| Input::Text(text.to_owned());
        for (json, expected) in [
            ("null", Input::Null),
            ("true", Input::Flag(true)),
            ("0.750", Input::Number("0.750".to_owned())),
            ("-1", Input::Number("-1".to_owned())),
            (r#""a\n\u00e9""#, text("a\né")),
            (r#"["a", 5, [], {}]"#, Input::List(vec![text("a"), Input::Other, Input::Other, Input::Other])),
            ("{\"a\": 1}", Input::Other),
        ] {
            assert_eq!(input(json), Some(expected), "{json}");
        }
        assert_eq!(input("nonsense"), None);
    }
}
