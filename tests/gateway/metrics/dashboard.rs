//! What hangs on the names: the table of the specification, the dashboard and the alerts. None may ask for what is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::busy::Busy;
use super::page::{ADDED, Page, promtool};
use super::promql::asked;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/grafana").join(name)
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(file("dgx-gateway.json")).unwrap()).unwrap()
}

fn panels(dashboard: &Value) -> Vec<Value> {
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row").cloned().collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// Puts plain values in the place of Grafana's variables, of which only those that are defined may be used.
fn without_variables(expression: &str, variables: &[String]) -> String {
    let mut text = expression.replace("$__rate_interval", "5m");
    for variable in variables {
        text = text.replace(&format!("${variable}"), ".*");
    }
    assert!(!text.contains('$'), "a variable that is not defined: {expression}");
    text
}

/// What an expression asks for that the page does not have.
fn missing(expression: &str, page: &Page) -> Vec<String> {
    let asked = asked(expression);
    let mut missing = Vec::new();
    if asked.selected.is_empty() {
        missing.push(format!("{expression} selects nothing"));
    }
    for selected in &asked.selected {
        let none = BTreeSet::new();
        let labels = match page.labels(&selected.name) {
            Some(labels) => labels,
            None if selected.name == "up" => &none, // Prometheus's own
            None => {
                missing.push(selected.name.clone());
                continue;
            }
        };
        let wanted = selected.labels.iter().chain(&asked.grouped);
        let unknown = wanted.filter(|label| !labels.contains(*label) && !ADDED.contains(&label.as_str()));
        missing.extend(unknown.map(|label| format!("{}{{{label}}}", selected.name)));
    }
    missing
}

/// Whether promtool understands expressions.
fn are_expressions<'a>(expressions: impl IntoIterator<Item = &'a str>) {
    let rules: Vec<Value> = expressions
        .into_iter()
        .enumerate()
        .map(|(at, expr)| json!({"record": format!("rule:number_{at}"), "expr": expr}))
        .collect();
    assert!(!rules.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.yaml");
    std::fs::write(&path, json!({"groups": [{"name": "all", "rules": rules}]}).to_string()).unwrap();
    let (content, said) = promtool(&["check", "rules", path.to_str().unwrap()], "");
    assert!(content, "{said}");
}

#[tokio::test]
async fn everything_that_is_asked_for_is_there() {
    let busy = Busy::start().await;
    let text_of_page = busy.gateway.metrics().await.text().to_owned();
    let (content, said) = promtool(&["check", "metrics"], &text_of_page);
    assert!(content && said.is_empty(), "{said}");
    let page = Page::read(&text_of_page);
    has_the_names_of_the_specification(&page);
    feeds_the_dashboard(&page);
    feeds_the_alerts(&page);
    assert_eq!(missing("rate(dgx_gateway_nothing[5m])", &page), ["dgx_gateway_nothing"]);
    assert_eq!(missing("sum by (kind) (dgx_gateway_errors_total)", &page), ["dgx_gateway_errors_total{kind}"]);
}

fn has_the_names_of_the_specification(page: &Page) {
    let words = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut names = 0;
    for row in include_str!("spec.md").lines().skip(2) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = words(cells[3]);
        for name in words(cells[1]) {
            let (kind, found) = page.metric(&name).unwrap_or_else(|| panic!("there is no {name}"));
            let wanted: BTreeSet<&str> = labels.iter().map(String::as_str).collect();
            assert_eq!((kind, found), (cells[2], wanted), "{name}");
            names += 1;
        }
    }
    assert_eq!(names, 27);
}

fn feeds_the_dashboard(page: &Page) {
    let dashboard = dashboard();
    let templating = dashboard["templating"]["list"].as_array().unwrap();
    let variables: Vec<String> = templating.iter().map(|variable| text(&variable["name"]).to_owned()).collect();
    for variable in templating {
        let query = text(&variable["query"]["query"]);
        assert_eq!(query, variable["definition"], "both forms say the same");
        let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
        let (metric, label) = inside.split_once(", ").unwrap();
        let labels = page.labels(metric).unwrap_or_else(|| panic!("there is no {metric}"));
        assert!(labels.contains(label) || ADDED.contains(&label), "{query}");
    }
    let mut expressions = Vec::new();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().unwrap() {
            let expression = without_variables(text(&target["expr"]), &variables);
            assert_eq!(missing(&expression, page), Vec::<String>::new(), "{}: {expression}", panel["title"]);
            // a legend may name what is left of the labels
            let grouped = asked(&expression).grouped;
            for named in text(&target["legendFormat"]).split("{{").skip(1) {
                let label = named.split("}}").next().unwrap();
                assert!(grouped.iter().any(|grouped| grouped == label), "{}: {label}", panel["title"]);
            }
            expressions.push(expression);
        }
    }
    are_expressions(expressions.iter().map(String::as_str));
}

fn feeds_the_alerts(page: &Page) {
    let rules = std::fs::read_to_string(file("alerts.yaml")).unwrap();
    let rules: serde_yaml::Value = serde_yaml::from_str(&rules).unwrap();
    let rules = rules["groups"][0]["rules"].as_sequence().unwrap();
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        assert_eq!(missing(expression, page), Vec::<String>::new(), "{expression}");
    }
    let (content, said) = promtool(&["check", "rules", file("alerts.yaml").to_str().unwrap()], "");
    assert!(content && said.contains(&format!("{} rules found", rules.len())), "{said}");
}

/// What Grafana needs to take the file: the form in which it writes dashboards for others.
#[test]
fn grafana_can_import_the_dashboard() {
    let dashboard = dashboard();
    let input = &dashboard["__inputs"][0];
    assert_eq!((text(&input["type"]), text(&input["pluginId"])), ("datasource", "prometheus"));
    let reference = format!("${{{}}}", text(&input["name"]));
    assert!(dashboard["id"].is_null() && dashboard["schemaVersion"].as_u64() >= Some(39));
    assert_eq!((text(&dashboard["uid"]), text(&dashboard["title"])), ("dgx-gateway", "dgx-gateway"));
    let required: BTreeSet<&str> =
        dashboard["__requires"].as_array().unwrap().iter().map(|plugin| text(&plugin["id"])).collect();
    let mut ids = BTreeSet::new();
    let mut taken: BTreeMap<(u64, u64), String> = BTreeMap::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels with one id");
        let title = text(&panel["title"]).to_owned();
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        let (left, top) = (place("x"), place("y"));
        assert!(left + place("w") <= 24, "{title} is too wide");
        for (x, y) in (left..left + place("w")).flat_map(|x| (top..top + place("h")).map(move |y| (x, y))) {
            let under = taken.insert((x, y), title.clone());
            assert!(under.is_none(), "{title} covers {under:?}");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(required.contains(text(&panel["type"])), "{title} needs a plugin that is not named");
        assert_eq!(panel["datasource"]["uid"], *reference, "{title}");
        let mut references = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], *reference, "{title}");
            assert!(references.insert(text(&target["refId"])), "{title}");
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        assert_eq!(variable["datasource"]["uid"], *reference);
    }
}
