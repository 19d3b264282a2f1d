//! The levels: every key in the environment, in the operator's file and at run time; bad values at each of them.

use std::process::Command;

use dgx_gateway_testkit::mock::{MockUpstream, Script};
use serde_json::{Map, Value, json};

use super::{KEYS, delete, get, put, tokens, with_models};

/// Texts of the environment for the values of the table; the models of the file need no check there.
fn in_environment(json: &str) -> String {
    match serde_json::from_str(json).unwrap() {
        Value::Array(words) => words.iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join(", "),
        Value::String(word) => word,
        _ => json.to_owned(),
    }
}

fn variable(key: &str) -> String {
    format!("DGX_GATEWAY_{}", key.to_uppercase())
}

#[tokio::test]
async fn the_highest_level_that_has_a_value_wins_key_by_key() {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    // every second key in the file, every third in the environment, every fifth at run time
    let value = |key: &str, good: &str| -> Value {
        if key == "rag_embedding_model" { json!("embeds") } else { serde_json::from_str(good).unwrap() }
    };
    let mut yaml = Map::new();
    let mut setup = with_models(mock.addr());
    for (index, (key, good, _)) in KEYS.into_iter().enumerate() {
        if index % 2 == 0 {
            yaml.insert(key.to_owned(), value(key, good));
        }
        if index % 3 == 0 {
            setup = setup.variable(String::leak(variable(key)), in_environment(good));
        }
    }
    let gateway = setup.tokens(tokens(&Value::Object(yaml))).start().await;
    for (index, (key, good, _)) in KEYS.into_iter().enumerate() {
        if index % 5 == 0 {
            put(gateway.addr, "acme-admin", &format!("/{key}"), &json!({"value": value(key, good)}).to_string())
                .await
                .is_ok();
        }
    }
    let listed = get(gateway.addr, "acme-admin", "").await.json();
    for (index, (key, good, _)) in KEYS.into_iter().enumerate() {
        let entry = &listed["config"][key];
        let (source, counts) = match (index % 5 == 0, index % 2 == 0, index % 3 == 0 || key == "stream_cost_event") {
            (true, ..) => ("db", value(key, good)),
            (false, true, _) => ("yaml", value(key, good)),
            (false, false, true) => ("process", value(key, good)),
            (false, false, false) => ("process", entry["default"].clone()),
        };
        assert_eq!((&entry["source"], &entry["value"]), (&json!(source), &counts), "{key}");
        delete(gateway.addr, "acme-admin", &format!("/{key}")).await;
    }
    let listed = get(gateway.addr, "acme-admin", "").await.json();
    assert!(KEYS.iter().all(|(key, ..)| listed["config"][key]["source"] != "db"));
}

/// Runs `check` on files; gives its exit code and what it says.
fn checked(defaults: &str, variables: &[(String, String)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("auth")).unwrap();
    std::fs::create_dir_all(dir.path().join("conf")).unwrap();
    let tokens = format!("version: 1\ntenants:\n  - id: acme\n    defaults:\n      {defaults}\n");
    std::fs::write(dir.path().join("auth/tokens.yaml"), tokens).unwrap();
    std::fs::write(dir.path().join("conf/gateway.yaml"), "{}").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"))
        .arg("check")
        .current_dir(dir.path())
        .env_clear()
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test]
async fn a_bad_value_of_the_file_is_told_with_its_line_and_key() {
    for (key, good, bad) in KEYS {
        // whether a model exists is not asked of the file: models come and go
        let is_model = key.ends_with("_model");
        let (code, said) = checked(&format!("{key}: {good}"), &[]);
        assert_eq!(code, Some(0), "{key}: {good}: {said}");
        if !is_model || bad == "null" {
            let (code, said) = checked(&format!("{key}: {bad}"), &[]);
            assert_eq!(code, Some(2), "{key}: {bad}: {said}");
            assert!(said.contains(&format!("auth/tokens.yaml:5: tenants[0].defaults.{key}")), "{key}: {bad}: {said}");
        }
    }
}

#[tokio::test]
async fn a_bad_value_of_the_environment_is_told_by_its_name_and_stops_the_start() {
    for (key, _, bad) in KEYS.iter().filter(|(key, _, bad)| !key.ends_with("_model") && !bad.starts_with(['"', '['])) {
        let (code, said) = checked("{}", &[(variable(key), (*bad).to_owned())]);
        // a JSON value of another type is only a text there
        assert_eq!(code, Some(2), "{key}={bad}: {said}");
        assert!(said.contains(&format!("{}: must be", variable(key))), "{key}={bad}: {said}");
    }
    let both = [(variable("rag_chunk_tokens"), "100".to_owned()), ("MAX_TOOL_ITERATIONS".to_owned(), "51".to_owned())];
    let (code, said) = checked("{}", &both);
    assert_eq!(code, Some(2));
    assert!(said.contains("DGX_GATEWAY_RAG_CHUNK_OVERLAP: must be at most half"), "{said}");
    assert!(said.contains("MAX_TOOL_ITERATIONS: must be a number from 1 to 50"), "{said}");
    // the file is judged by what the environment says
    assert_eq!(checked("tool_max_iterations: 20", &[]).0, Some(2));
    assert_eq!(checked("tool_max_iterations: 20", &[("MAX_TOOL_ITERATIONS".to_owned(), "20".to_owned())]).0, Some(0));
    let tokens = [(variable("rag_chunk_tokens"), "1000".to_owned())];
    assert_eq!(
        (checked("rag_chunk_overlap: 500", &[]).0, checked("rag_chunk_overlap: 500", &tokens).0),
        (Some(2), Some(0))
    );
    let output = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"))
        .current_dir(tempfile::tempdir().unwrap().path())
        .env_clear()
        .env("DGX_GATEWAY_RAG_TOP_K", "21")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("DGX_GATEWAY_RAG_TOP_K"), "{said}");
}
