//! What must come out of a stream, worked out without any code of the relay: whole text in, trees out.

use std::collections::BTreeSet;

use serde_json::Value;

/// An event as a client reads it. The marker that ends a stream is a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    pub(super) name: String,
    pub(super) data: Value,
}

/// The events of a whole stream; those without data are none.
pub(super) fn parse(stream: &[u8]) -> Vec<Said> {
    let text = std::str::from_utf8(stream).unwrap();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let (mut name, mut data) = (String::new(), Vec::new());
    for line in text.lines().chain([""]) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "data" => data.push(value),
            "" if line.is_empty() => {
                let (name, data) = (std::mem::take(&mut name), std::mem::take(&mut data).join("\n"));
                if !data.is_empty() {
                    let marker = data.trim() == "[DONE]";
                    let data = if marker { "[DONE]".into() } else { serde_json::from_str(&data).unwrap() };
                    events.push(Said { name, data });
                }
            }
            _ => {}
        }
    }
    events
}

/// The same events after the documented changes.
pub(super) fn expected(events: &[Said], model: &str, usage: bool, chat: bool) -> Vec<Said> {
    let (mut seen, mut ended) = (BTreeSet::new(), BTreeSet::new());
    let mut out: Vec<Said> = Vec::new();
    for said in events {
        let mut said = said.clone();
        if said.data == "[DONE]" {
            out.push(said);
            break;
        }
        let reports = said.data["usage"].is_object();
        let choices = said.data["choices"].as_array().cloned().unwrap_or_default();
        let of = |choice: &Value| choice["index"].as_u64().unwrap_or(0);
        let indices: BTreeSet<u64> = choices.iter().map(of).collect();
        let after_the_end = chat && !ended.is_empty() && indices.is_subset(&ended);
        seen.extend(indices);
        ended.extend(choices.iter().filter(|choice| choice["finish_reason"].is_string()).map(of));
        let dropped = after_the_end && !choices.iter().any(says_something) || chat && choices.is_empty() && reports;
        if dropped && !(usage && reports) {
            continue;
        }
        rename(&mut said.data, model);
        for inner in ["message", "response"] {
            if said.data["type"].is_string() && said.data[inner].is_object() {
                rename(&mut said.data[inner], model);
            }
        }
        if chat && reports && !usage {
            said.data.as_object_mut().unwrap().remove("usage");
        }
        out.push(said);
    }
    out
}

fn rename(value: &mut Value, model: &str) {
    let members = value.as_object_mut().unwrap();
    members.remove("provider");
    if let Some(name) = members.get_mut("model") {
        *name = model.into();
    }
}

fn says_something(choice: &Value) -> bool {
    let delta = &choice["delta"];
    let text = |name: &str| delta[name].as_str().is_some_and(|text| !text.is_empty());
    ["content", "reasoning", "reasoning_content", "refusal"].into_iter().any(text)
        || delta["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty())
}

/// The stream without the events that the gateway adds of its own.
pub(super) fn without_own_events(stream: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(stream).unwrap();
    text.split_inclusive("\n\n").filter(|event| !event.starts_with("event: spass.")).collect::<String>().into_bytes()
}

/// Every event is a name if it has one, one line of data, and a blank line.
pub(super) fn assert_form(stream: &[u8]) {
    let text = std::str::from_utf8(stream).unwrap();
    assert!(text.ends_with("\n\n") && !text.starts_with('\u{feff}') && !text.contains('\r'), "{text}");
    for event in text.split_terminator("\n\n") {
        let lines: Vec<&str> = event.split('\n').collect();
        let names = lines.iter().filter(|line| line.starts_with("event: ")).count();
        assert!(lines.len() == names + 1 && names <= 1 && lines[names].starts_with("data: "), "{event}");
    }
}
