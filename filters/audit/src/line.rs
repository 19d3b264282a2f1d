//! One record as one line of JSON: all members, always in the same order, null where they are not known.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dgx_gateway_filter::audit::{AuditEvent, AuditRecord, CostEvent, HttpEvent, ToolEvent};

/// What almost every line fits into.
const USUAL_BYTES: usize = 640;

/// The time of records as text; the part that changes once per second is made once per second.
#[derive(Debug, Default)]
pub(crate) struct Stamp {
    second: Option<u64>,
    /// `2026-05-16T09:12:03`
    text: String,
}

impl Stamp {
    fn push(&mut self, now: SystemTime, out: &mut Vec<u8>) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            let seconds = i64::try_from(since.as_secs()).ok();
            let at = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()).unwrap_or_default();
            self.text = at.to_string();
            self.text.truncate(self.text.len().saturating_sub(1)); // the Z
            self.second = Some(since.as_secs());
        }
        out.extend_from_slice(self.text.as_bytes());
        out.push(b'.');
        let millis = since.subsec_millis();
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            out.push(b'0' + u8::try_from(digit).unwrap_or_default());
        }
        out.push(b'Z');
    }
}

/// What the log adds to a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added<'a> {
    pub now: SystemTime,
    /// The user as the log names them.
    pub user_id: Option<&'a str>,
    /// Refusals that got no line of their own.
    pub suppressed: u64,
}

/// Appends a record to `out`.
pub(crate) fn write(out: &mut Vec<u8>, stamp: &mut Stamp, record: &AuditRecord<'_>, added: Added<'_>) {
    out.reserve(USUAL_BYTES);
    out.extend_from_slice(b"{\"ts\":\"");
    stamp.push(added.now, out);
    let mut line = Line(out);
    line.raw("\",\"type\":\"").raw(word(&record.event)).raw("\"");
    line.text_or_null("request_id", record.request_id);
    line.text_or_null("parent_request_id", record.parent_request_id);
    line.text_or_null("tenant_id", record.tenant_id);
    line.text_or_null("token_id", record.token_id);
    line.text_or_null("user_id", added.user_id);
    let shown = |address: Option<IpAddr>| address.filter(|_| !record.pseudonymous);
    match &record.event {
        AuditEvent::Admin { action, ok, detail } => {
            line.word("action", action.as_str());
            line.flag("ok", *ok);
            line.text_or_null("detail", *detail);
        }
        AuditEvent::Auth { reason, client_ip } => {
            line.word("reason", reason.as_str());
            line.address("client_ip", shown(*client_ip));
            line.number("suppressed", added.suppressed);
        }
        AuditEvent::Config { action, key, old, new } => {
            line.word("action", action.as_str());
            line.text("key", key);
            line.json("old", *old);
            line.json("new", *new);
        }
        AuditEvent::Cost(cost) => line.cost(cost),
        AuditEvent::Http(http) => line.http(http, shown(http.client_ip)),
        AuditEvent::Tool(tool) => line.tool(tool),
    }
    line.raw("}\n");
}

fn word(event: &AuditEvent<'_>) -> &'static str {
    match event {
        AuditEvent::Admin { .. } => "admin",
        AuditEvent::Auth { .. } => "auth",
        AuditEvent::Config { .. } => "config",
        AuditEvent::Cost(_) => "cost",
        AuditEvent::Http(_) => "http",
        AuditEvent::Tool(_) => "tool",
    }
}

struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn http(&mut self, http: &HttpEvent<'_>, client_ip: Option<IpAddr>) {
        self.text("method", http.method);
        self.text("route", http.route);
        self.number_or_null("status", http.status.map(u64::from));
        self.text_or_null("error_code", http.error_code);
        self.millis("duration_ms", http.duration);
        self.number_or_null("bytes_in", http.bytes_in);
        self.number_or_null("bytes_out", http.bytes_out);
        self.address("client_ip", client_ip);
        self.text_or_null("model", http.model);
        match http.stream {
            Some(stream) => self.flag("stream", stream),
            None => self.null("stream"),
        }
        self.flag("aborted", http.aborted);
        self.number("depth", http.depth.into());
    }

    fn cost(&mut self, cost: &CostEvent<'_>) {
        self.text_or_null("model", cost.model);
        self.text_or_null("resolved_model", cost.resolved_model);
        self.text_or_null("backend", cost.backend);
        self.number("calls", cost.calls);
        self.number("prompt_tokens", cost.prompt_tokens);
        self.number("completion_tokens", cost.completion_tokens);
        self.number("cached_tokens", cost.cached_tokens);
        self.text("source", cost.source);
        self.flag("available", cost.available);
        self.text("billed_eur", cost.billed_eur);
        self.text("billed_usd", cost.billed_usd);
        self.text("upstream_usd", cost.upstream_usd);
        self.text("exchange_rate", cost.exchange_rate);
        self.text("exchange_rate_source", cost.exchange_rate_source);
        self.text("status", cost.status);
    }

    fn tool(&mut self, tool: &ToolEvent<'_>) {
        self.text("tool", tool.tool);
        self.number_or_null("iteration", tool.iteration);
        self.word("outcome", tool.outcome.as_str());
        self.text_or_null("error_code", tool.error_code);
        self.millis("duration_ms", tool.duration);
        self.name("arguments_sha256").raw("\"");
        for byte in tool.arguments_sha256 {
            self.display(format_args!("{byte:02x}"));
        }
        self.raw("\"");
        self.number("result_bytes", tool.result_bytes);
        self.flag("confirmed", tool.confirmed);
    }
}

impl Line<'_> {
    fn raw(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Names are words of ours, so nothing in them is escaped.
    fn name(&mut self, name: &'static str) -> &mut Self {
        self.raw(",\"").raw(name).raw("\":")
    }

    fn null(&mut self, name: &'static str) {
        self.name(name).raw("null");
    }

    fn flag(&mut self, name: &'static str, flag: bool) {
        self.name(name).raw(if flag { "true" } else { "false" });
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.name(name).raw(itoa::Buffer::new().format(number));
    }

    fn number_or_null(&mut self, name: &'static str, number: Option<u64>) {
        match number {
            Some(number) => self.number(name, number),
            None => self.null(name),
        }
    }

    fn millis(&mut self, name: &'static str, duration: Duration) {
        self.number(name, u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    }

    /// A word of ours.
    fn word(&mut self, name: &'static str, word: &'static str) {
        self.name(name).raw("\"").raw(word).raw("\"");
    }

    fn text_or_null(&mut self, name: &'static str, text: Option<&str>) {
        match text {
            Some(text) => self.text(name, text),
            None => self.null(name),
        }
    }

    fn text(&mut self, name: &'static str, text: &str) {
        self.name(name).raw("\"");
        if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
            self.raw(text);
        } else {
            self.escaped(text);
        }
        self.raw("\"");
    }

    fn escaped(&mut self, text: &str) {
        for letter in text.chars() {
            match letter {
                '"' | '\\' => self.display(format_args!("\\{letter}")),
                '\0'..=' ' if letter != ' ' => self.display(format_args!("\\u{:04x}", u32::from(letter))),
                _ => self.display(format_args!("{letter}")),
            }
        }
    }

    /// A document as it stands, on one line: within its strings a line end is escaped already.
    fn json(&mut self, name: &'static str, document: Option<&str>) {
        let Some(document) = document else { return self.null(name) };
        self.name(name);
        let bytes = document.bytes().map(|byte| if byte == b'\n' || byte == b'\r' { b' ' } else { byte });
        self.0.extend(bytes);
    }

    fn address(&mut self, name: &'static str, address: Option<IpAddr>) {
        let Some(address) = address else { return self.null(name) };
        self.name(name).raw("\"");
        match address {
            IpAddr::V4(address) => {
                for (place, part) in address.octets().into_iter().enumerate() {
                    self.raw(if place == 0 { "" } else { "." }).raw(itoa::Buffer::new().format(part));
                }
            }
            IpAddr::V6(address) => self.display(format_args!("{address}")),
        }
        self.raw("\"");
    }

    fn display(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).unwrap_or_default(); // memory takes everything
    }
}

#[cfg(test)]
mod tests;
