//! Whether generated images are in the answer, or only where they lie.

use std::borrow::Cow;

use serde::Deserialize;

use super::members::Members;

#[derive(Deserialize)]
struct Image<'a> {
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
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
