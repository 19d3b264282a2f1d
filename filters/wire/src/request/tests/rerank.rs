//! Documents of rerank requests.

use serde_json::{Value, json};

use super::{problems, scan};
use crate::request::{Problem, Protocol};

#[test]
fn judges_documents() {
    use Problem::{DocumentTooLarge as Large, DocumentType as Type, DocumentsCount as Count};
    let table: Vec<(Value, Option<(Problem, &str)>)> = vec![
        (json!(["x"]), None),
        (json!(["x", {"text": "y"}, ""]), None),
        (json!([{"title": "t", "text": "y", "more": {"text": 5}}]), None),
        (json!(vec!["x"; 1000]), None),
        (json!([]), Some((Count, "documents"))),
        (json!(vec!["x"; 1001]), Some((Count, "documents"))),
        (json!(["x", 5]), Some((Type, "documents[1]"))),
        (json!([null]), Some((Type, "documents[0]"))),
        (json!([["x"]]), Some((Type, "documents[0]"))),
        (json!(["x", "y", {}]), Some((Type, "documents[2]"))),
        (json!([{"title": "t"}]), Some((Type, "documents[0]"))),
        (json!([{"text": 5}]), Some((Type, "documents[0]"))),
        (json!([{"text": null}]), Some((Type, "documents[0]"))),
        (json!(["ä".repeat(16_384)]), None),
        (json!(["x", "ä".repeat(16_384) + "x"]), Some((Large, "documents[1]"))),
        (json!([{"text": "x".repeat(32_768), "title": "not counted"}]), None),
        (json!([{"text": "x".repeat(32_769)}]), Some((Large, "documents[0]"))),
    ];
    for (documents, expected) in table {
        let body = json!({"model": "m", "query": "q", "documents": documents}).to_string();
        let scan = scan(Protocol::Rerank, &body);
        let first = scan.findings.first().map(|finding| (finding.problem, finding.param()));
        let expected = expected.map(|(problem, param)| (problem, param.to_owned()));
        assert_eq!(first, expected, "{}", body.chars().take(120).collect::<String>());
    }
}

#[test]
fn query_and_texts_of_documents_are_the_prompt() {
    let body = r#"{"query":"four","documents":["ab",{"text":"cd","title":"no"}],"model":"m"}"#;
    let rerank = scan(Protocol::Rerank, body);
    assert_eq!(rerank.prompt_text_bytes, 8);
    assert!(rerank.query.is_some() && rerank.documents.is_some());
    let chat = scan(Protocol::Chat, r#"{"query":"four","documents":[5],"messages":[]}"#);
    assert_eq!((chat.prompt_text_bytes, problems(&chat)), (0, vec![]));
}
