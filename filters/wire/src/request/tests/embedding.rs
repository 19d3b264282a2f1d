//! Inputs of embeddings, and which members belong to which protocol.

use serde_json::{Value, json};

use super::{problems, scan};
use crate::request::{InputSize, Location, Problem, Protocol};

#[test]
fn judges_embedding_inputs() {
    use Problem::{EmbeddingInputEmpty as Empty, EmbeddingInputTooLarge as Large, EmbeddingInputType as Type};
    let tokens = |count: u64| Problem::EmbeddingTooManyTokens { count };
    let many = Problem::EmbeddingTooManyInputs;
    let table: Vec<(Value, Option<(Problem, &str)>)> = vec![
        (json!("x"), None),
        (json!(["x", "y"]), None),
        (json!([1, 2, -3]), None),
        (json!([[1], [2, 3]]), None),
        (json!(""), Some((Empty, "input"))),
        (json!([]), Some((Empty, "input"))),
        (json!(["x", ""]), Some((Empty, "input[1]"))),
        (json!([[1], []]), Some((Empty, "input[1]"))),
        (json!("ä".repeat(4096)), None),
        (json!("ä".repeat(4096) + "x"), Some((Large, "input"))),
        (json!(["x", "x".repeat(8193)]), Some((Large, "input[1]"))),
        (json!(vec!["x"; 256]), None),
        (json!(vec!["x"; 257]), Some((many, "input"))),
        (json!(vec![vec![1]; 257]), Some((many, "input"))),
        (json!(vec![7; 2048]), None),
        (json!(vec![7; 2049]), Some((tokens(2049), "input"))),
        (json!([[1], vec![7; 3000]]), Some((tokens(3000), "input[1]"))),
        (json!(7), Some((Type, "input"))),
        (json!({}), Some((Type, "input"))),
        (json!(true), Some((Type, "input"))),
        (json!(null), None),
        (json!([1.5]), Some((Type, "input[0]"))),
        (json!([1, "x"]), Some((Type, "input[1]"))),
        (json!(["x", 1]), Some((Type, "input[1]"))),
        (json!(["x", [1]]), Some((Type, "input[1]"))),
        (json!([{"text": "x"}]), Some((Type, "input[0]"))),
        (json!(["x", null]), Some((Type, "input[1]"))),
        (json!([[1, "x"]]), Some((Type, "input[0]"))),
        (json!([[1], [[2]]]), Some((Type, "input[1]"))),
    ];
    for (input, expected) in table {
        let scan = scan(Protocol::Embeddings, &json!({"input": input}).to_string());
        let expected = expected.map(|(problem, param)| (problem, param.to_owned()));
        assert_eq!(problems(&scan).first().cloned(), expected, "{input}");
        if expected.is_none() {
            assert!(scan.findings.is_empty());
        }
    }
}

#[test]
fn too_many_inputs_come_before_the_problems_of_their_elements() {
    let scan = scan(Protocol::Embeddings, &json!({"input": vec![""; 300]}).to_string());
    let expected = [(Problem::EmbeddingTooManyInputs, "input"), (Problem::EmbeddingInputEmpty, "input[0]")];
    assert_eq!(problems(&scan), expected.map(|(problem, param)| (problem, param.to_owned())));
    assert_eq!(scan.input_count, 300);
}

#[test]
fn looks_into_the_members_of_its_protocol_alone() {
    let body = r#"{"input":7,"messages":[7],"prompt":[1,2,[3]],"tools":[{"name":"tool"}]}"#;
    assert_eq!(problems(&scan(Protocol::Completions, body)), []);
    assert_eq!(scan(Protocol::Completions, body).prompt_text_bytes, 12);
    assert_eq!(problems(&scan(Protocol::Embeddings, body)), [(Problem::EmbeddingInputType, "input".to_owned())]);
    assert_eq!(problems(&scan(Protocol::Chat, body)), [(Problem::MessageNotObject, "messages[0]".to_owned())]);
    assert_eq!(scan(Protocol::Chat, body).prompt_text_bytes, 4);
}

#[test]
fn measures_the_longest_input() {
    let texts = scan(Protocol::Embeddings, r#"{"input":["a","\u00e4b","abc"]}"#);
    assert_eq!(texts.longest_input_text, Some(InputSize { location: Location::InputItem(1), size: 3 }));
    assert_eq!((texts.input_count, texts.longest_input_tokens), (3, None));
    let lists = scan(Protocol::Embeddings, r#"{"input":[[1],[2,3],[4]]}"#);
    assert_eq!(lists.longest_input_tokens, Some(InputSize { location: Location::InputItem(1), size: 2 }));
    let single = scan(Protocol::Embeddings, r#"{"input":[1,2,3]}"#);
    assert_eq!(single.longest_input_tokens, Some(InputSize { location: Location::Input, size: 3 }));
    assert_eq!((single.input_count, lists.input_count), (1, 3));
}
