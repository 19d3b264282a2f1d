//! The results of a rerank answer, best first.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::members::{Edit, Members};

#[derive(Deserialize)]
struct Scored {
    relevance_score: Option<f64>,
}

/// Sorts `results` by `relevance_score`, descending; equal ones keep their order, those without a score come last.
/// Each result keeps its bytes. A body without such results stays as it is.
#[must_use]
pub fn sort_results(body: &Bytes) -> Bytes {
    sorted(body).map_or_else(|| body.clone(), Bytes::from)
}

fn sorted(body: &[u8]) -> Option<Vec<u8>> {
    let members = Members::parse(body)?;
    let results: Vec<&RawValue> = serde_json::from_str(members.value("results")?.get()).ok()?;
    let score = |result: &RawValue| {
        let scored: Option<Scored> = serde_json::from_str(result.get()).ok();
        scored.and_then(|scored| scored.relevance_score).unwrap_or(f64::NEG_INFINITY)
    };
    let mut scored: Vec<(f64, &RawValue)> = results.into_iter().map(|result| (score(result), result)).collect();
    if scored.is_sorted_by(|one, other| one.0 >= other.0) {
        return None;
    }
    scored.sort_by(|one, other| other.0.total_cmp(&one.0));
    let texts: Vec<&str> = scored.iter().map(|(_, result)| result.get()).collect();
    let list = format!("[{}]", texts.join(","));
    members.edited(|member| match &*member.name {
        "results" => Edit::Replace(list.clone().into_bytes()),
        _ => Edit::Keep,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_stands_first_and_every_result_keeps_its_bytes() {
        for (body, expected) in [
            (
                r#"{"id":"r", "results":[{"index":0,"relevance_score":0.1},{"index":1, "relevance_score":9.3e-1,"document":{"text":"é"}}],"usage":{"total_tokens":3}}"#,
                r#"{"id":"r", "results":[{"index":1, "relevance_score":9.3e-1,"document":{"text":"é"}},{"index":0,"relevance_score":0.1}],"usage":{"total_tokens":3}}"#,
            ),
            (
                r#"{"results":[{"index":2},{"index":1,"relevance_score":-5},{"index":0,"relevance_score":-5}]}"#,
                r#"{"results":[{"index":1,"relevance_score":-5},{"index":0,"relevance_score":-5},{"index":2}]}"#,
            ),
        ] {
            assert_eq!(sort_results(&Bytes::from(body)), expected);
        }
    }

    #[test]
    fn what_is_sorted_or_no_list_stays() {
        for body in [
            r#"{"results": [{"relevance_score":2}, {"relevance_score":1}]}"#,
            r#"{"results":[]}"#,
            r#"{"results":{}}"#,
            r#"{"data":[]}"#,
            "no JSON",
        ] {
            assert_eq!(sort_results(&Bytes::from(body)), body);
        }
    }
}
