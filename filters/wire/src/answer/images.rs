//! Generated images: how many are in an answer, and whether they are there or only where they lie.

use std::borrow::Cow;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::delta::elements;
use super::dialects::is_an_image;
use super::members::Members;

#[derive(Deserialize)]
struct Image<'a> {
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
}

/// How many images a whole answer holds: elements of `data` of an answer that is about images, else images of messages and
/// items of a response that are images. An answer that mentions none is not taken apart.
#[must_use]
pub fn count_images(body: &[u8], is_about_images: bool) -> u64 {
    let mentions = |word: &str| memmem::find(body, word.as_bytes()).is_some();
    if !is_about_images && !mentions("\"images\"") && !mentions("image_generation_call") {
        return 0;
    }
    let Some(members) = Members::parse(body) else { return 0 };
    if is_about_images && let Some(data) = members.value("data") {
        return elements(data);
    }
    let choices: Vec<Choice<'_>> = members.value("choices").map_or_else(Vec::new, parsed);
    let items: Vec<&RawValue> = members.value("output").map_or_else(Vec::new, parsed);
    let of_messages = choices.into_iter().filter_map(|choice| choice.message?.images).map(elements);
    of_messages.chain(items.into_iter().map(|item| u64::from(is_an_image(Some(item))))).fold(0, u64::saturating_add)
}

fn parsed<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Vec<T> {
    serde_json::from_str(value.get()).unwrap_or_default()
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    message: Option<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    images: Option<&'a RawValue>,
}

/// Whether an element of `data` has a URL that is no data URI: it would tell the client which provider drew it.
#[must_use]
pub fn tells_where_images_lie(body: &[u8]) -> bool {
    let data = Members::parse(body).and_then(|members| members.value("data"));
    let images: Option<Vec<Image<'_>>> = data.and_then(|data| serde_json::from_str(data.get()).ok());
    let is_elsewhere = |image: Image<'_>| {
        image.url.is_some_and(|url| !url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")))
    };
    images.is_some_and(|images| images.into_iter().any(is_elsewhere))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_counted_where_each_dialect_has_them() {
        for (body, about_images, expected) in [
            (r#"{"created":1,"data":[{"b64_json":"a"},{"b64_json":"b"}]}"#, true, 2),
            (r#"{"object":"list","data":[{"embedding":[1]},{"embedding":[2]}]}"#, false, 0),
            (
                r#"{"choices":[{"message":{"content":"","images":[{"type":"image_url"},{"type":"image_url"}]}},{"message":{"images":[{}]}}]}"#,
                false,
                3,
            ),
            (r#"{"choices":[{"message":{"content":"about \"images\"","images":null}},{"message":null},{}]}"#, false, 0),
            (
                r#"{"output":[{"type":"image_generation_call","result":"a"},{"type":"message"},{"type":"image_generation_call"}]}"#,
                false,
                2,
            ),
            (r#"{"choices":[{"message":{"images":"x"}}]}"#, false, 0),
            ("no JSON with \"images\"", false, 0),
            ("", true, 0),
        ] {
            assert_eq!(count_images(body.as_bytes(), about_images), expected, "{body}");
        }
    }

    #[test]
    fn urls_are_found_and_data_uris_are_none() {
        for (body, expected) in [
            (r#"{"data":[{"b64_json":"iVBORw0KGgo="}]}"#, false),
            (r#"{"data":[{"b64_json":"iVBORw0KGgo=","url":null}]}"#, false),
            (r#"{"data":[{"url":"data:image/png;base64,iVBORw0KGgo="}]}"#, false),
            (r#"{"data":[{"b64_json":"a"},{"url":"https://images.example/1.png"}]}"#, true),
            (r#"{"data":[{"url":"https:\/\/images.example\/1.png"}]}"#, true),
            (r#"{"data":[{"url":""}]}"#, true),
            (r#"{"data":[]}"#, false),
            (r#"{"created":1}"#, false),
            ("no JSON", false),
        ] {
            assert_eq!(tells_where_images_lie(body.as_bytes()), expected, "{body}");
        }
    }
}
