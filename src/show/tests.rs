use std::path::Path;

use dgx_gateway::registry::registry;

use super::*;

fn ambient(variables: &[(&str, &str)]) -> Ambient {
    Ambient::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

/// What is shown of a file.
fn show(yaml: &str, variables: &[(&str, &str)]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), yaml).unwrap();
    show_file(file.path(), variables)
}

fn show_file(path: &Path, variables: &[(&str, &str)]) -> String {
    let overrides = Overrides { config: Some(path.to_owned()) };
    effective(&overrides, &ambient(variables), &registry()).unwrap()
}

fn read(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Everything that may hold a secret, with secrets that all contain the word canary.
const CANARIES: &str = r#"
limits: {store: "redis://canary:canary@cache:6379/0?password=canary"}
backends:
  - {id: a, kind: openai, domain: local, base_url: "http://canary:canary@host/v1?api-key=canary", api_key: canary-1}
  - {id: b, kind: openai, domain: cloud, base_url: "${URL}", api_key: "${KEY}"}
routes:
  - path: /x
    methods: [GET]
    upstream: "https://canary@host/y#canary"
    filters: [{odd: {password: canary, deep: [{api_key: canary, url: "http://canary@h/"}], token: canary}}]
"#;

#[test]
fn no_secret_of_file_or_environment_is_shown() {
    let variables = [
        ("KEY", "canary-2"),
        ("URL", "https://canary@host/v1"),
        ("RUST_API_BEARER", "canary-3"),
        ("DGX_GATEWAY_REDIS_URL", "redis://canary@cache"),
        ("SOMETHING_ELSE", "canary"),
    ];
    let shown = show(CANARIES, &variables);
    assert!(!shown.contains("canary"), "{shown}");
    let value = read(&shown);
    assert_eq!(value["backends"][0]["api_key"], "[secret]");
    assert_eq!(value["backends"][0]["base_url"], "http://[secret]@host/v1?[secret]");
    assert_eq!(value["limits"]["store"], "redis://[secret]@cache", "the variable goes before the file");
    assert_eq!(value["routes"][0]["filters"][0]["odd"]["deep"][0]["url"], "http://[secret]@h/");
}

#[test]
fn every_key_is_shown_and_a_key_without_a_value_says_why() {
    let shown = show("", &[]);
    let value = read(&shown);
    let schema = schema::gateway(&registry());
    for (key, _) in members(&schema) {
        assert!(value.get(key.as_str()).is_some(), "{key}\n{shown}");
    }
    assert_eq!(value["server"]["listen"], "127.0.0.1:3000");
    assert_eq!(value["server"]["max_body_bytes"], 33_554_432);
    assert_eq!(value["limits"]["auth_failures"]["burst"], 10);
    assert_eq!(value["limits"]["on_store_failure"], "local_share");
    assert_eq!(value["models_file"], "conf/models.yaml");
    assert_eq!(value["stream"]["idle_timeout_seconds"], 120);
    assert_eq!(value["backends"], Value::Sequence(Vec::new()));
    assert!(value["server"]["threads"].as_u64().is_some_and(|threads| threads > 0));
    assert!(shown.contains("format: null # `text` on a terminal, else `json`\n"), "{shown}");
}

#[test]
fn defaults_of_the_core_are_those_that_it_works_with() {
    let value = read(&show("", &[]));
    let overrides = Overrides { config: None };
    let (config, _) = Config::load(&overrides, &Ambient::default(), &registry().keys()).unwrap();
    let server = config.server;
    let expected = [
        ("max_body_bytes", server.max_body_bytes as u64),
        ("max_connections", server.max_connections as u64),
        ("max_held_bytes", server.max_held_bytes as u64),
        ("total_timeout_seconds", server.total_timeout.as_secs()),
        ("drain_seconds", server.drain.as_secs()),
    ];
    for (key, expected) in expected {
        assert_eq!(value["server"][key].as_u64(), Some(expected), "{key}");
    }
    assert_eq!(value["server"]["listen"], server.listen.to_string());
    assert_eq!(value["server"]["admin_listen"], server.admin_listen.to_string());
    assert_eq!(value["log"]["level"], config.log.level);
    assert_eq!(value["data_dir"].as_str().map(Into::into), Some(config.data_dir));
}

#[test]
fn the_environment_comes_before_the_file_and_the_file_before_the_default() {
    let file = "{server: {listen: '127.0.0.1:1', drain_seconds: 5}, limits: {burst: 7, per_second: 2}, data_dir: here}";
    let variables = [
        ("DGX_GATEWAY_LISTEN", "127.0.0.1:2"),
        ("RATE_LIMIT_BURST", "9"),
        ("DGX_GATEWAY_DATA_DIR", "there"),
        ("DGX_GATEWAY_LOG", "debug"),
    ];
    let value = read(&show(file, &variables));
    assert_eq!(value["server"]["listen"], "127.0.0.1:2");
    assert_eq!(value["server"]["drain_seconds"], 5);
    assert_eq!((&value["limits"]["burst"], &value["limits"]["per_second"]), (&9.into(), &2.into()));
    assert_eq!((value["data_dir"].as_str(), value["log"]["level"].as_str()), (Some("there"), Some("debug")));
}

#[test]
fn a_default_that_names_another_key_takes_its_value() {
    let file = "{server: {max_body_bytes: 4096}, routes: [{path: /x, methods: [GET], endpoint: pages}]}";
    assert_eq!(read(&show(file, &[]))["routes"][0]["max_body_bytes"], 4096);
}

#[test]
fn a_section_that_is_there_as_a_whole_or_not_at_all_is_null_without_a_file() {
    assert_eq!(read(&show("{}", &[]))["server"]["tls"], Value::Null);
    assert!(show("{}", &[]).contains("tls: null # none, it speaks HTTP without TLS\n"));
}

#[test]
fn what_is_shown_is_a_valid_file_that_shows_the_same() {
    for example in ["demo.yaml", "spark.yaml", "station.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(example);
        let variables =
            [("OPENROUTER_API_KEY", "x"), ("NVIDIA_API_KEY", "x"), ("ANTHROPIC_API_KEY", "x"), ("OLLAMA_API_KEY", "x")];
        let shown = show_file(&path, &variables);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &shown).unwrap();
        let overrides = Overrides { config: Some(file.path().to_owned()) };
        let checked = dgx_gateway::server::check(&overrides, &Ambient::default(), registry());
        assert!(checked.is_ok(), "{example}: {checked:?}\n{shown}");
        assert_eq!(show_file(file.path(), &[]), shown, "{example}");
    }
}
