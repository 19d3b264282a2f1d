use std::num::NonZeroU32;

use super::*;
use crate::settings::BackendFile;
use dgx_gateway_filter::upstream::EmbeddedUpstreams;

fn read(backends: &str) -> (Vec<Arc<Backend>>, Vec<String>) {
    let files: Vec<BackendFile> = serde_yaml::from_str(backends).unwrap();
    let mut problems = Vec::new();
    let built = crate::service::backends(&files, &EmbeddedUpstreams::default(), &[], &mut problems);
    (built, problems.iter().map(ToString::to_string).collect())
}

/// One backend with more keys.
fn one(more: &str) -> (Vec<Arc<Backend>>, Vec<String>) {
    read(&format!("[{{id: a, base_url: 'http://a.example:8000/v1/', {more}}}]"))
}

#[test]
fn what_is_left_out_has_the_defaults_of_the_contract() {
    let (backends, problems) = read(
        "
- {id: a, kind: vllm, domain: local, base_url: 'http://a.example:8000/v1'}
- {id: b, kind: ollama, domain: cloud, base_url: 'https://b.example/v1'}
- {id: c, kind: openrouter, domain: cloud, base_url: 'https://c.example/v1'}
- {id: d, kind: nvidia, domain: cloud, base_url: 'https://d.example/v1'}
- {id: e, kind: anthropic, domain: cloud, base_url: 'https://e.example/v1'}
- {id: f, kind: ollama, domain: local, base_url: 'http://f.example/v1'}
- {id: g, kind: litellm, domain: cloud, base_url: 'http://g.example', cloud_slot: 9}
",
    );
    assert_eq!(problems, [""; 0]);
    let labels: Vec<&str> = backends.iter().map(|backend| &*backend.label).collect();
    assert_eq!(labels, ["local-1", "cloud-1", "cloud-2", "cloud-3", "cloud-4", "local-2", "cloud-5"]);
    let slots: Vec<Option<u32>> = backends.iter().map(|backend| backend.cloud_slot).collect();
    assert_eq!(slots, [None, Some(1), Some(2), Some(3), None, None, Some(9)]);
    let first = &backends[0];
    assert!(first.enabled && !first.exact_tokens && first.is_up());
    assert_eq!((first.upstream.slots, first.stt_modes.as_slice()), (None, &[SttMode::Continuous][..]));
    assert_eq!(first.upstream.connect_timeout, Duration::from_secs(2));
    assert_eq!(first.first_byte_timeout, Duration::from_secs(120));
}

#[test]
fn values_at_the_edge_are_taken() {
    for more in [
        "kind: vllm, domain: local, max_in_flight: 0",
        "kind: vllm, domain: local, max_in_flight: 100000, machine: gpu-1.a_b",
        "kind: vllm, domain: local, stt_modes: [chunked]",
        "kind: vllm, domain: local, stt_modes: [continuous, chunked]",
        "kind: vllm, domain: local, connect_timeout_ms: 1, first_byte_timeout_seconds: 3600",
        "kind: openai, domain: cloud, cloud_slot: 1, label: a23456789-123456789-123456789-12",
    ] {
        let (backends, problems) = one(more);
        assert_eq!(problems, [""; 0], "{more}");
        assert_eq!(backends[0].base_path, "/v1", "{more}");
    }
    let (backends, _) = one("kind: vllm, domain: local, max_in_flight: 64, stt_modes: [chunked]");
    assert_eq!(backends[0].upstream.slots.map(NonZeroU32::get), Some(64));
    assert_eq!(backends[0].stt_modes, [SttMode::Chunked]);
}

#[test]
fn load_errors() {
    for (more, expected) in [
        ("kind: vllm, domain: local, label: Local", "backends[0].label: must match"),
        ("kind: vllm, domain: local, label: 1a", "backends[0].label: must match"),
        ("kind: vllm, domain: local, label: a23456789-123456789-123456789-123", "backends[0].label: must match"),
        ("kind: vllm, domain: cloud, machine: gpu1", "backends[0].machine: is for local backends only"),
        ("kind: vllm, domain: local, machine: cloud-1", "backends[0].machine: must be letters"),
        ("kind: vllm, domain: local, machine: local", "backends[0].machine: must be letters"),
        ("kind: vllm, domain: local, machine: ''", "backends[0].machine: must be letters"),
        ("kind: vllm, domain: local, machine: 'a b'", "backends[0].machine: must be letters"),
        ("kind: vllm, domain: local, cloud_slot: 1", "backends[0].cloud_slot: is for cloud backends only"),
        ("kind: vllm, domain: cloud, cloud_slot: 0", "backends[0].cloud_slot: must be at least 1"),
        ("kind: vllm, domain: local, max_in_flight: 100001", "backends[0].max_in_flight: must be 0 to 100000"),
        ("kind: vllm, domain: local, stt_modes: []", "backends[0].stt_modes: must name"),
        ("kind: vllm, domain: local, stt_modes: [chunked, chunked]", "backends[0].stt_modes: must name"),
        ("kind: vllm, domain: local, connect_timeout_ms: 0", "backends[0].connect_timeout_ms: must be 1 to 60000"),
        (
            "kind: vllm, domain: local, first_byte_timeout_seconds: 3601",
            "first_byte_timeout_seconds: must be 1 to 3600",
        ),
        ("kind: vllm, domain: local, api_key: \"a\\nb\"", "backends[0].api_key: has characters"),
        ("kind: demo, domain: local", "backends[0].kind: this build has no demo backend"),
    ] {
        let problems = one(more).1.join("\n");
        assert!(problems.contains(expected), "{more}: {problems}");
    }
    for (url, expected) in [
        ("", "is required"),
        ("base_url: 'ftp://a/v1'", "must be an http or https URL"),
        ("base_url: 'http://user:secret@a/v1'", "must be an http or https URL"),
        ("base_url: 'http://a/v1?key=secret'", "must be an http or https URL"),
    ] {
        let problems = read(&format!("[{{id: a, kind: vllm, domain: local, {url}}}]")).1.join("\n");
        assert!(problems.contains(&format!("backends[0].base_url: {expected}")), "{url}: {problems}");
        assert!(!problems.contains("secret"), "{problems}");
    }
    let plain = one("kind: vllm, domain: local, ca_file: a.pem").1;
    assert_eq!(plain, ["backends[0].ca_file: needs a base_url that is an https URL"]);
    let twice = "[{id: a, label: x, kind: vllm, domain: local, base_url: 'http://a/v1'}, {id: a, label: x, kind: vllm, domain: local, base_url: 'http://a/v1'}]";
    assert_eq!(read(twice).1, ["backends[1].id: stands twice", "backends[1].label: stands twice"]);
}

#[test]
fn unknown_words_are_no_values() {
    for more in ["stt_modes: [live]", "max_in_flight: -1", "max_in_flight: many", "pinned: true"] {
        let text = format!("[{{id: a, kind: vllm, domain: local, base_url: 'http://a/v1', {more}}}]");
        assert!(serde_yaml::from_str::<Vec<BackendFile>>(&text).is_err(), "{more}");
    }
}

#[test]
fn running_requests_are_counted_while_they_run() {
    let (backends, _) = one("kind: vllm, domain: local");
    let (first, second) = (backends[0].enter(), backends[0].enter());
    assert_eq!(backends[0].in_flight(), 2);
    drop((first, second));
    assert_eq!(backends[0].in_flight(), 0);
}

#[test]
fn a_backend_that_stays_where_it_is_keeps_what_happened_to_it() {
    let file = |id: &str, host: &str| format!("{{id: {id}, kind: vllm, domain: local, base_url: 'http://{host}/v1'}}");
    let all = |ids: [(&str, &str); 2]| read(&format!("[{}]", ids.map(|(id, host)| file(id, host)).join(", "))).0;
    let before = all([("a", "one"), ("b", "two")]);
    before[0].set_up(false);
    before[1].set_up(false);
    let running = before[0].enter();
    let (alias, model): (Arc<str>, Arc<str>) = ("m".into(), "n".into());
    let history = before[0].live.history(&alias, &model);
    // the first has another place in the file, the second another address
    let mut after = all([("b", "three"), ("a", "one")]);
    take_over(&mut after, &before);
    assert_eq!(after.iter().map(|backend| backend.is_up()).collect::<Vec<_>>(), [true, false]);
    assert_eq!((after[1].in_flight(), after[0].in_flight()), (1, 0));
    assert!(Arc::ptr_eq(&history, &after[1].live.history(&alias, &model)));
    drop(running);
    assert_eq!(after[1].in_flight(), 0);
}
