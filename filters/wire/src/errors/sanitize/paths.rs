//! Absolute paths of files in a text. Paths of an API (`/v1/models`) and of members (`/messages/0/content`) stay.

use regex::{Captures, Regex};

use super::patterns::pattern;

const PATH: &str = "[path]";

/// First segments that belong to a machine, not to an API.
const ROOTS: [&str; 30] = [
    "Users",
    "Volumes",
    "app",
    "bin",
    "build",
    "cache",
    "data",
    "dev",
    "etc",
    "export",
    "home",
    "lib",
    "lib64",
    "media",
    "mnt",
    "models",
    "nix",
    "opt",
    "private",
    "proc",
    "root",
    "run",
    "scratch",
    "snap",
    "srv",
    "sys",
    "tmp",
    "usr",
    "var",
    "workspace",
];

/// Last parts of the names of files that a model server has.
const ENDINGS: [&str; 22] = [
    "bin",
    "cpp",
    "cu",
    "db",
    "gguf",
    "go",
    "jinja",
    "js",
    "json",
    "key",
    "log",
    "pem",
    "pt",
    "pth",
    "py",
    "rs",
    "safetensors",
    "so",
    "sock",
    "toml",
    "yaml",
    "yml",
];

/// Finds the names of files on the machine of an upstream.
#[derive(Debug)]
pub(super) struct Paths {
    unix: Regex,
    windows: Regex,
}

impl Paths {
    pub(super) fn new() -> Self {
        Self {
            unix: pattern(r#"(^|[^\w./~)\]-])(~?/[^\s"'<>`\\|:;,()\[\]{}]*[^\s"'<>`\\|:;,()\[\]{}.!?])"#),
            windows: pattern(r#"(^|\W)[A-Za-z]:\\[^\s"'<>`|:;,()]*"#),
        }
    }

    pub(super) fn hide(&self, text: &str) -> String {
        let text = self.unix.replace_all(text, |found: &Captures<'_>| match &found[2] {
            path if is_file(path) => format!("{}{PATH}", &found[1]),
            _ => found[0].to_owned(),
        });
        self.windows.replace_all(&text, "${1}[path]").into_owned()
    }
}

fn is_file(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let rooted = segments.len() > 1 && segments.first().is_some_and(|first| *first == "~" || ROOTS.contains(first));
    let hidden = segments.iter().any(|segment| segment.len() > 1 && segment.starts_with('.'));
    let named = segments.last().and_then(|last| last.rsplit_once('.')).is_some_and(|(_, end)| ENDINGS.contains(&end));
    rooted || hidden || named
}
