//! The page as Prometheus reads it, and promtool.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

/// Labels by the name of a series.
pub(super) struct Page(BTreeMap<String, BTreeSet<String>>, BTreeMap<String, String>);

/// Labels that Prometheus adds itself.
pub(super) const ADDED: [&str; 2] = ["instance", "job"];

impl Page {
    pub(super) fn read(text: &str) -> Self {
        let (mut series, mut types) = (BTreeMap::<String, BTreeSet<String>>::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
                series.entry(name.to_owned()).or_default().extend(labels(rest));
            }
        }
        Self(series, types)
    }

    /// Labels of a series; `None` when there is none of that name.
    pub(super) fn labels(&self, series: &str) -> Option<&BTreeSet<String>> {
        self.0.get(series)
    }

    /// Type of a metric, and its labels without those that make up a histogram.
    pub(super) fn metric(&self, name: &str) -> Option<(&str, BTreeSet<&str>)> {
        let kind = self.1.get(name)?;
        let series = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
        Some((kind, self.0.get(&series)?.iter().map(String::as_str).collect()))
    }
}

/// Names of the labels in braces, whatever stands in their values.
fn labels(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text.strip_prefix('{').unwrap_or_default();
    while let Some((name, value)) = rest.split_once("=\"") {
        names.push(name.trim_start_matches(',').to_owned());
        let mut escaped = false;
        let end = value.find(|character| {
            let ends = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        });
        rest = value.split_at(end.unwrap() + 1).1;
        if rest.starts_with('}') {
            break;
        }
    }
    names
}

/// Runs promtool; gives whether it is content, and what it said. It must be there: what it checks is checked nowhere else.
pub(super) fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let started = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = started.expect("promtool is missing; Debian: apt-get install prometheus");
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stderr, output.stdout].concat();
    (output.status.success(), String::from_utf8_lossy(&said).trim().to_owned())
}

#[test]
fn labels_are_read_whatever_their_values_hold() {
    let page = Page::read("# TYPE a counter\na{x=\"1,y=\\\"2\\\"}\",z=\"\\\\\"} 1\na 2\nb{} 3\n");
    assert_eq!(page.labels("a").unwrap().iter().collect::<Vec<_>>(), ["x", "z"]);
    assert!(page.labels("b").unwrap().is_empty() && page.labels("c").is_none());
    assert_eq!(page.metric("a").unwrap().0, "counter");
}
