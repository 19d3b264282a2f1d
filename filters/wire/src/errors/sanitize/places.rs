//! URLs, addresses and host names in a text.

use std::net::Ipv6Addr;

use regex::{Captures, Regex};

use super::patterns::{one_of, pattern};

const URL: &str = "[url]";
const ADDRESS: &str = "[address]";
const HOST: &str = "[host]";

/// Last labels that tell a host name from a dotted path such as `tools.0.function.name`.
const LAST_LABELS: [&str; 23] = [
    "com", "net", "org", "io", "ai", "dev", "app", "cloud", "co", "eu", "de", "ch", "at", "uk", "us", "fr", "nl",
    "example", "internal", "local", "lan", "svc", "cluster",
];

/// Is a host name by itself and as a last label.
const LOCALHOST: &str = "localhost";

/// Finds what tells where an upstream runs.
#[derive(Debug)]
pub(super) struct Places {
    url: Regex,
    colons: Regex,
    ipv4: Regex,
    dotted: Regex,
    hosts: Vec<Regex>,
}

impl Places {
    pub(super) fn new(hosts: impl IntoIterator<Item = String>) -> Self {
        Self {
            url: pattern(r#"(?i)[a-z][a-z0-9+.-]*://[^\s"'<>`\\]*[^\s"'<>`\\.,;:!?)\]}]"#),
            colons: pattern(r"\[?[\w.]*:[\w.:]*:[\w.:]*(?:%\w+)?(?:\](?::\d{1,5})?)?"),
            ipv4: pattern(r"\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?"),
            dotted: pattern(r"([\w-]+(?:\.[\w-]+)*)(?::\d{1,5})?"),
            hosts: one_of(hosts, r"(?::\d{1,5})?"),
        }
    }

    pub(super) fn hide_urls(&self, text: &str) -> String {
        self.url.replace_all(text, URL).into_owned()
    }

    pub(super) fn hide_addresses(&self, text: &str) -> String {
        let text = self.colons.replace_all(text, |found: &Captures<'_>| without_ipv6(&found[0]));
        self.ipv4.replace_all(&text, ADDRESS).into_owned()
    }

    /// Dotted names first: a configured host may be the first label of one.
    pub(super) fn hide_hosts(&self, text: &str) -> String {
        let text =
            self.dotted.replace_all(
                text,
                |found: &Captures<'_>| {
                    if is_host(&found[1]) { HOST.to_owned() } else { found[0].to_owned() }
                },
            );
        self.hosts.iter().fold(text.into_owned(), |text, hosts| hosts.replace_all(&text, HOST).into_owned())
    }
}

fn is_host(name: &str) -> bool {
    let known = |label: &str| LAST_LABELS.iter().any(|last| last.eq_ignore_ascii_case(label));
    let is_localhost = |label: &str| LOCALHOST.eq_ignore_ascii_case(label);
    match name.rsplit_once('.') {
        Some((_, last)) => known(last) || is_localhost(last),
        None => is_localhost(name),
    }
}

/// Replaces the IPv6 address within a word that holds two colons or more; other words stay.
///
/// The word may begin with something else (`host:2001:db8::1`), end with a port, a zone or a full stop.
fn without_ipv6(word: &str) -> String {
    let starts =
        std::iter::once(0).chain(word.char_indices().filter(|(_, c)| matches!(c, '[' | ':')).map(|(at, _)| at + 1));
    for start in starts {
        let Some((before, rest)) = word.split_at_checked(start) else { continue };
        if let Some(after) = after_ipv6(rest) {
            let before = before.strip_suffix('[').unwrap_or(before);
            return format!("{before}{ADDRESS}{after}");
        }
    }
    word.to_owned()
}

/// What follows the address at the front of `text`, or `None` if there is no address.
fn after_ipv6(text: &str) -> Option<&str> {
    let end =
        text.find(|char: char| !matches!(char, '0'..='9' | 'a'..='f' | 'A'..='F' | ':' | '.')).unwrap_or(text.len());
    let (address, rest) = text.split_at_checked(end)?;
    let trimmed = address.trim_end_matches('.');
    let stops = address.get(trimmed.len()..)?;
    let (trimmed, port) = match trimmed.parse::<Ipv6Addr>() {
        Ok(_) => (trimmed, ""),
        Err(_) => trimmed.rsplit_once(':').map(|(host, port)| (host.trim_end_matches('.'), port))?,
    };
    let parsed: Ipv6Addr = trimmed.parse().ok()?;
    let word_goes_on = rest.starts_with(|char: char| char.is_alphanumeric() || char == '_');
    if parsed.is_unspecified() || word_goes_on || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(if rest.is_empty() { stops } else { "" })
}
