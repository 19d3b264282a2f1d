//! The line of a key in a YAML file.
//!
//! A parsed tree has no lines, but an error of the parser has one. So the text is walked again down to the key, and
//! made to fail there. That happens only for problems, which are few.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Line, from 1, of the value at a path such as `tokens[0].secrets`; for a key that is missing, of what it is missing
/// in.
#[must_use]
pub fn line(text: &str, path: &str) -> Option<usize> {
    let steps: Vec<_> = path.split(['.', '[']).map(|step| step.trim_end_matches(']')).collect();
    let stop = Walk { steps: &steps }.deserialize(serde_yaml::Deserializer::from_str(text));
    stop.err()?.location().map(|location| location.line())
}

/// Walks down the steps and fails at the end, or where it gets no further.
struct Walk<'a> {
    steps: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the end of the path")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if let Some((step, steps)) = self.steps.split_first() {
            while let Some(key) = map.next_key::<String>()? {
                if key == *step {
                    return map.next_value_seed(Walk { steps });
                }
                map.next_value::<IgnoredAny>()?;
            }
        }
        Err(A::Error::custom("here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if let Some((step, steps)) = self.steps.split_first()
            && let Ok(index) = step.parse::<usize>()
        {
            let mut skipped = 0;
            while skipped < index && seq.next_element::<IgnoredAny>()?.is_some() {
                skipped += 1;
            }
            seq.next_element_seed(Walk { steps })?;
        }
        Err(A::Error::custom("here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version: 1

tenants:
  - id: acme
    limits:
      weight: 0
tokens:
  - {id: a, role: user}
  - id: b
    secrets:
      - value: x
      - value: y
        sha256: z
    extra_scopes: [chat:create,
      nothing]
";

    #[test]
    fn finds_the_line_of_a_value() {
        for (path, expected) in [
            ("version", 1),
            ("tenants[0].id", 4),
            ("tenants[0].limits.weight", 6),
            ("tokens[0].role", 8),
            ("tokens[1].secrets[1].sha256", 13),
            ("tokens[1].extra_scopes[1]", 15),
        ] {
            assert_eq!(line(TEXT, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn falls_back_to_what_the_key_is_missing_in() {
        for (path, expected) in [
            ("colour", 1),
            ("tenants[0].nothing.at.all", 4),
            ("tokens[1].role", 9),
            ("tokens[1].secrets[0].sha256", 11),
        ] {
            assert_eq!(line(TEXT, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn survives_odd_paths_and_texts() {
        for path in ["", ".", "[", "a[b]", "tokens[99]", "tokens[-1]", "tokens[18446744073709551615]", "version.x"] {
            for text in [TEXT, "", "a", "- 1", "{", "1: 2", "a: &x [1]\nb: *x"] {
                let _line = line(text, path);
            }
        }
    }
}
