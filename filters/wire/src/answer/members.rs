//! The top-level members of a JSON object as slices of its text, and edits that leave the rest alone.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// One member of an object.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    /// The name, unescaped.
    pub(super) name: Cow<'a, str>,
    /// The value as it is written.
    pub(super) value: &'a RawValue,
    /// Where the member is, from the quote before its name to the end of its value.
    span: Range<usize>,
}

/// An object of which only the top level was taken apart. The whole text was checked to be JSON.
#[derive(Debug)]
pub(super) struct Members<'a> {
    text: &'a [u8],
    members: Vec<Member<'a>>,
}

/// What becomes of a member.
pub(super) enum Edit {
    Keep,
    Remove,
    /// The value is replaced by this JSON.
    Replace(Vec<u8>),
}

impl<'a> Members<'a> {
    /// Takes the object apart; `None` when `text` is not exactly one JSON object.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let members = deserializer.deserialize_map(TopLevel { text }).ok()?;
        deserializer.end().ok()?;
        Some(Self { text, members })
    }

    /// The value of a member, unless it is `null`. Of members with the same name the last one counts.
    pub(super) fn value(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.members.iter().rev().find(|member| member.name == name)?;
        (found.value.get() != "null").then_some(found.value)
    }

    /// The object after `edit` has seen each member; `None` when all were kept.
    pub(super) fn edited(&self, edit: impl Fn(&Member<'a>) -> Edit) -> Option<Vec<u8>> {
        let edits: Vec<Edit> = self.members.iter().map(edit).collect();
        if edits.iter().all(|edit| matches!(edit, Edit::Keep)) {
            return None;
        }
        let mut out = Output { text: self.text, bytes: Vec::with_capacity(self.text.len() + EXTRA_CAPACITY) };
        let mut end_of_last = self.members.first().map_or(0, |member| member.span.start);
        out.copy(0..end_of_last);
        let mut is_first = true;
        for (member, edit) in self.members.iter().zip(&edits) {
            let gap = end_of_last..member.span.start;
            end_of_last = member.span.end;
            if matches!(edit, Edit::Remove) {
                continue;
            }
            if !std::mem::take(&mut is_first) {
                out.copy(gap);
            }
            out.member(member, edit);
        }
        out.copy(end_of_last..self.text.len());
        Some(out.bytes)
    }
}

/// Room for values that are longer than the ones they replace.
const EXTRA_CAPACITY: usize = 64;

struct Output<'a> {
    text: &'a [u8],
    bytes: Vec<u8>,
}

impl Output<'_> {
    fn copy(&mut self, range: Range<usize>) {
        self.bytes.extend_from_slice(self.text.get(range).unwrap_or_default());
    }

    fn member(&mut self, member: &Member<'_>, edit: &Edit) {
        let Range { start, end } = member.span;
        match edit {
            Edit::Replace(value) => {
                self.copy(start..end.saturating_sub(member.value.get().len()));
                self.bytes.extend_from_slice(value);
            }
            Edit::Keep | Edit::Remove => self.copy(start..end),
        }
    }
}

struct TopLevel<'a> {
    text: &'a [u8],
}

impl TopLevel<'_> {
    /// Where a slice of the text begins within it.
    fn offset(&self, part: &RawValue) -> usize {
        (part.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }
}

impl<'a> Visitor<'a> for TopLevel<'a> {
    type Value = Vec<Member<'a>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // Chunks and answers have less than ten members.
        let mut members = Vec::with_capacity(10);
        while let Some((name, value)) = map.next_entry::<&'a RawValue, &'a RawValue>()? {
            let span = self.offset(name)..self.offset(value) + value.get().len();
            members.push(Member { name: unquoted(name.get()), value, span });
        }
        Ok(members)
    }
}

/// The name within its quotes; a copy only if it is escaped.
fn unquoted(name: &str) -> Cow<'_, str> {
    let plain = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name);
    if plain.contains('\\') {
        serde_json::from_str(name).map_or(Cow::Borrowed(plain), Cow::Owned)
    } else {
        Cow::Borrowed(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(text: &str, names: &[&str]) -> Option<String> {
        let members = Members::parse(text.as_bytes()).unwrap();
        let edit = |member: &Member<'_>| if names.contains(&&*member.name) { Edit::Remove } else { Edit::Keep };
        members.edited(edit).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn removes_a_member_with_one_comma() {
        let text = "{ \"a\" : 1 , \"b\":[2, {\"a\":3}],\n\t\"c\":\"}\" }";
        assert_eq!(without(text, &["x"]), None);
        assert_eq!(without(text, &["a"]).unwrap(), "{ \"b\":[2, {\"a\":3}],\n\t\"c\":\"}\" }");
        assert_eq!(without(text, &["b"]).unwrap(), "{ \"a\" : 1,\n\t\"c\":\"}\" }");
        assert_eq!(without(text, &["c"]).unwrap(), "{ \"a\" : 1 , \"b\":[2, {\"a\":3}] }");
        assert_eq!(without(text, &["a", "b"]).unwrap(), "{ \"c\":\"}\" }");
        assert_eq!(without(text, &["b", "c"]).unwrap(), "{ \"a\" : 1 }");
        assert_eq!(without(text, &["a", "b", "c"]).unwrap(), "{  }");
    }

    #[test]
    fn finds_names_that_are_escaped_or_repeated() {
        assert_eq!(without(r#"{"\u0061":1,"b":2,"a":3}"#, &["a"]).unwrap(), r#"{"b":2}"#);
        let members = Members::parse(br#"{"a":1,"\u0061":2,"n":null}"#).unwrap();
        assert_eq!(members.value("a").unwrap().get(), "2");
        assert!(members.value("n").is_none());
    }

    #[test]
    fn replaces_a_value_only() {
        let members = Members::parse(br#"{"a" : [1] , "b":2}"#).unwrap();
        let edit = |member: &Member<'_>| match &*member.name {
            "a" => Edit::Replace(b"\"x\"".to_vec()),
            _ => Edit::Keep,
        };
        assert_eq!(members.edited(edit).unwrap(), br#"{"a" : "x" , "b":2}"#);
    }

    #[test]
    fn refuses_what_is_not_one_object() {
        for text in ["", "[]", "1", "{", "{}x", "{} {}", r#"{"a":}"#, r#"{"a":[}]}"#, "data", "{\"a\":\"\u{1}\"}"] {
            assert!(Members::parse(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Members::parse(b"{\"a\":\"\xFF\"}").is_none());
        assert!(Members::parse(b" {} \r\n").is_some());
    }
}
