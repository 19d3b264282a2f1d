//! Log lines as JSON: one object per event, its fields at the top level, written straight into the line.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Length of `2026-05-16T09:12:03`.
const SECOND_TEXT: usize = 19;

/// `{"timestamp":…,"level":…,<fields>,"target":…}`.
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _cx: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let normalized = event.normalized_metadata(); // of a message that came through the crate `log`
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        line.write_str("{\"timestamp\":\"")?;
        write_time(SystemTime::now(), &mut line)?;
        line.write_str("\",\"level\":\"")?;
        line.write_str(metadata.level().as_str())?;
        line.write_char('"')?;
        let mut fields = Fields { line: &mut line, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        line.write_str(",\"target\":\"")?;
        write_escaped(metadata.target(), &mut line)?;
        line.write_str("\"}\n")
    }
}

thread_local! {
    /// The last second that was written on this thread, and its text.
    static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
}

/// RFC 3339 in UTC with microseconds. The text of a second is made once.
fn write_time(now: SystemTime, line: &mut impl fmt::Write) -> fmt::Result {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    SECOND.with_borrow_mut(|(known, text)| {
        if *known != second {
            *known = second;
            text.clear();
            let whole = Timestamp::from_second(second).map_or_else(|_| String::new(), |second| second.to_string());
            text.push_str(whole.get(..SECOND_TEXT).unwrap_or_default());
        }
        line.write_str(text)
    })?;
    write!(line, ".{:06}Z", since.subsec_micros())
}

struct Fields<'a, W> {
    line: &'a mut W,
    result: fmt::Result,
}

impl<W: fmt::Write> Fields<'_, W> {
    /// Writes a field, unless it only tells where a message of the crate `log` came from.
    fn field(&mut self, field: &Field, write: impl FnOnce(&mut W) -> fmt::Result) {
        let name = field.name();
        if self.result.is_ok() && !name.starts_with("log.") {
            self.result = self.named(name.strip_prefix("r#").unwrap_or(name), write);
        }
    }

    fn named(&mut self, name: &str, write: impl FnOnce(&mut W) -> fmt::Result) -> fmt::Result {
        self.line.write_str(",\"")?;
        self.line.write_str(name)?;
        self.line.write_str("\":")?;
        write(self.line)
    }
}

impl<W: fmt::Write> Visit for Fields<'_, W> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, |line| if value.is_finite() { write!(line, "{value}") } else { line.write_str("null") });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |line| line.write_str(itoa::Buffer::new().format(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |line| line.write_str(itoa::Buffer::new().format(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |line| line.write_str(if value { "true" } else { "false" }));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, |line| {
            line.write_char('"')?;
            write_escaped(value, line)?;
            line.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, |line| {
            line.write_char('"')?;
            write!(Escaping(line), "{value:?}")?;
            line.write_char('"')
        });
    }
}

/// Escapes what passes.
struct Escaping<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_escaped(text, self.0)
    }
}

/// The inside of a JSON string (RFC 8259, section 7).
fn write_escaped(mut text: &str, line: &mut impl fmt::Write) -> fmt::Result {
    while let Some(at) = text.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let (before, rest) = text.split_at_checked(at).unwrap_or((text, ""));
        line.write_str(before)?;
        match rest.bytes().next() {
            Some(b'"') => line.write_str("\\\"")?,
            Some(b'\\') => line.write_str("\\\\")?,
            Some(b'\n') => line.write_str("\\n")?,
            Some(b'\t') => line.write_str("\\t")?,
            Some(other) => write!(line, "\\u{other:04x}")?,
            None => {}
        }
        text = rest.get(1..).unwrap_or_default();
    }
    line.write_str(text)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use serde_json::{Value, json};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(act: impl FnOnce()) -> (String, Value) {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::fmt().event_format(JsonLines).with_writer(kept.clone()).finish();
        tracing::subscriber::with_default(subscriber, act);
        let line = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let value = serde_json::from_str(&line).unwrap();
        (line, value)
    }

    #[test]
    fn an_event_is_one_object_with_its_fields_in_order() {
        let (nothing, below, list): (Option<&str>, i64, _) = (None, -3, vec!["q\"uote"]);
        let (line, value) = logged(|| {
            tracing::info!(
                target: "place",
                { a.text = "x", count = 3_u64, below, yes = true, part = 1.5, odd = f64::NAN, shown = %"it", debug = ?list, nothing },
                "said"
            );
        });
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
        let names: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(names.len(), 12, "{line}");
        assert!(line.starts_with("{\"timestamp\":\"") && line.contains("\"level\":\"INFO\",\"message\":\"said\""));
        for (name, expected) in [
            ("a.text", json!("x")),
            ("count", json!(3)),
            ("below", json!(-3)),
            ("yes", json!(true)),
            ("part", json!(1.5)),
            ("odd", json!(null)),
            ("shown", json!("it")),
            ("debug", json!(r#"["q\"uote"]"#)),
            ("target", json!("place")),
        ] {
            assert_eq!(value[name], expected, "{name}");
        }
    }

    #[test]
    fn whatever_a_text_holds_the_line_stays_one_line_of_json() {
        let every: String = (0..0x250).filter_map(char::from_u32).collect();
        let (line, value) = logged(|| tracing::warn!(text = every.as_str(), shown = %every, "x"));
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!((value["text"].as_str(), value["shown"].as_str()), (Some(&*every), Some(&*every)));
    }

    #[test]
    fn a_time_is_that_of_the_clock_to_the_microsecond() {
        let mut text = String::new();
        for (micros, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_778_922_723_000_042, "2026-05-16T09:12:03.000042Z"),
            (1_778_922_723_999_999, "2026-05-16T09:12:03.999999Z"),
            (1_778_922_724_000_000, "2026-05-16T09:12:04.000000Z"),
        ] {
            text.clear();
            write_time(UNIX_EPOCH + Duration::from_micros(micros), &mut text).unwrap();
            assert_eq!(text, expected);
        }
    }
}
