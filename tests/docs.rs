//! What the documents and the example configurations promise, held against the code.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dgx_gateway::config::Overrides;
use dgx_gateway::registry::registry;
use dgx_gateway::server::check;
use dgx_gateway_filter::ambient::Ambient;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}

/// The fenced block that follows a mark in a document.
fn block_after<'a>(document: &'a str, mark: &str) -> &'a str {
    let after = document.split_once(mark).unwrap_or_else(|| panic!("no mark {mark}")).1;
    let block = after.split_once("```").unwrap().1.split_once('\n').unwrap().1;
    block.split_once("\n```").unwrap().0
}

#[test]
fn a_route_may_name_a_dialect_that_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let checked = |dialect: &str| {
        let file = dir.path().join("gateway.yaml");
        let route =
            format!("routes: [{{path: /x, methods: [GET], dialect: {dialect}, upstream: 'http://127.0.0.1:9'}}]");
        fs::write(&file, route).unwrap();
        check(&Overrides { config: Some(file) }, &Ambient::default(), registry())
    };
    assert!(checked("messages").is_ok());
    let refused = format!("{:?}", checked("klingon"));
    assert!(refused.contains("routes[/x].dialect") && refused.contains("unknown dialect klingon"), "{refused}");
}

#[test]
fn every_example_configuration_is_valid() {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let (parts, main): (Vec<_>, Vec<_>) = files("conf", "yaml")
        .into_iter()
        .filter(|path| name(path) != "routes.yaml") // built in, loaded by every test of the registry
        .partition(|path| name(path).ends_with("-models.yaml") || name(path) == "pricing.yaml");
    assert!(main.len() >= 3, "{main:?}");
    for path in &main {
        let overrides = Overrides { config: Some(path.clone()) };
        let checked = check(&overrides, &Ambient::default(), registry());
        assert!(checked.is_ok(), "{}: {checked:?}", path.display());
    }
    let texts: String = main.iter().map(read).collect();
    for path in parts {
        let key = if name(&path) == "pricing.yaml" { "pricing_file" } else { "models_file" };
        assert!(texts.contains(&format!("{key}: conf/{}", name(&path))), "{} is not used", path.display());
    }
}

#[test]
fn an_example_configuration_that_is_wrong_would_be_noticed() {
    let broken = read(root().join("conf/demo.yaml")).replace("kind: demo", "kind: dmeo");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), broken).unwrap();
    let overrides = Overrides { config: Some(file.path().to_owned()) };
    assert!(check(&overrides, &Ambient::default(), registry()).is_err());
}

#[test]
fn every_backend_and_model_of_the_price_table_is_one_of_the_station() {
    let prices: serde_yaml::Value = serde_yaml::from_str(&read(root().join("conf/pricing.yaml"))).unwrap();
    let (station, models) = (read(root().join("conf/station.yaml")), read(root().join("conf/station-models.yaml")));
    let entries = prices["entries"].as_sequence().unwrap();
    assert!(!entries.is_empty());
    for entry in entries {
        let (backend, model) = (entry["backend"].as_str().unwrap(), entry["model"].as_str().unwrap());
        assert!(station.contains(&format!("- id: {backend}\n")), "{backend}");
        assert!(models.contains(&format!("model: {}", model.trim_end_matches('*'))), "{model}");
    }
}

#[test]
fn a_price_table_that_is_wrong_is_told_with_its_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let (file, pricing) = (dir.path().join("gateway.yaml"), dir.path().join("pricing.yaml"));
    fs::write(&file, format!("pricing_file: {}", pricing.display())).unwrap();
    fs::write(&pricing, "version: 1\nentries:\n  - {backend: a, model: m, input: dear}\n").unwrap();
    let problems = check(&Overrides { config: Some(file) }, &Ambient::default(), registry()).unwrap_err();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(told[0].starts_with(&format!("{}:3: entries[0].input: must be", pricing.display())), "{told:?}");
}

#[test]
fn the_first_configuration_of_the_readme_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let readme = read(root().join("README.md"));
    let script = block_after(&readme, "<!-- first configuration -->");
    let written = Command::new("bash").args(["-euc", script]).current_dir(folder.path()).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let checked = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"))
        .arg("check")
        .env_clear()
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    for file in ["conf/gateway.yaml", "conf/models.yaml", "auth/tokens.yaml"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
}

#[test]
fn the_tokens_file_of_the_operations_guide_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let guide = read(root().join("docs/OPERATIONS.md"));
    fs::create_dir(folder.path().join("auth")).unwrap();
    fs::write(folder.path().join("auth/tokens.yaml"), block_after(&guide, "<!-- tokens -->")).unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"))
        .arg("check")
        .env_clear()
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn links_between_documents_lead_to_files() {
    let documents = files("docs", "md").into_iter().chain([root().join("README.md")]);
    for document in documents {
        let text = read(&document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if target.contains("://") || file.is_empty() {
                continue;
            }
            let path = document.parent().unwrap().join(file);
            assert!(path.exists(), "{} links to {target}", document.display());
        }
    }
}

/// Names of metrics and environment variables in the code.
fn names_in_code() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![root().join("src"), root().join("filters")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(read(&path).split('"').filter(|word| is_public_name(word)).map(str::to_owned));
            }
        }
    }
    assert!(names.len() > 15, "{names:?}");
    names
}

#[test]
fn every_metric_and_environment_variable_is_documented() {
    let names = names_in_code();
    let guide = read(root().join("docs/OPERATIONS.md"));
    let named = |name: &str| guide.contains(&format!("`{name}`"));
    // a variable of a tenant key is documented by its key
    let of_tenant = |name: &str| name.strip_prefix("DGX_GATEWAY_").is_some_and(|key| named(&key.to_lowercase()));
    let missing: Vec<&String> = names.iter().filter(|name| !named(name) && !of_tenant(name)).collect();
    assert!(missing.is_empty(), "not in docs/OPERATIONS.md: {missing:?}");
}

#[test]
fn every_metric_of_the_guide_is_in_the_code() {
    let names = names_in_code();
    let guide = read(root().join("docs/OPERATIONS.md"));
    let cells = guide.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let documented: Vec<&str> = cells.flat_map(|cell| cell.split('`')).filter(|word| is_metric(word)).collect();
    assert!(documented.len() > 20, "{documented:?}");
    let unknown: Vec<&&str> = documented.iter().filter(|name| !names.contains(**name)).collect();
    assert!(unknown.is_empty(), "not in the code: {unknown:?}");
}

fn is_metric(word: &str) -> bool {
    let rest = word.strip_prefix("dgx_gateway_").or_else(|| word.strip_prefix("gen_ai_"));
    rest.is_some_and(|rest| rest.contains('_') && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
}

/// A metric of ours, or an environment variable of ours.
fn is_public_name(word: &str) -> bool {
    let metric = is_metric(word);
    let variable = word.strip_prefix("DGX_GATEWAY_").is_some_and(|rest| !rest.is_empty() && is_upper(rest));
    metric || variable || ["MAX_BODY_BYTES", "HTTP_TOTAL_TIMEOUT_SECS", "RUST_API_BEARER"].contains(&word)
}

fn is_upper(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}
