//! What may be repeated of an upstream's words, step by step and over a corpus of error bodies.

use std::sync::LazyLock;

use super::*;

mod corpus;

static SANITIZER: LazyLock<Sanitizer> = LazyLock::new(|| {
    Sanitizer::new(
        ["gpu-a".to_owned(), "llm.lab".to_owned(), "router.corp.intranet".to_owned()],
        ["cloud-2".to_owned(), "local-1".to_owned()],
    )
});

fn clean(raw: &str) -> String {
    SANITIZER.message(raw.as_bytes(), "meta-llama/Llama-4-Scout", "llama-4-scout")
}

#[test]
fn the_documented_examples() {
    for (raw, message) in [
        (
            "litellm.BadRequestError: OpenAIException - Invalid schema, see https://api.example.com/v1 key sk-abcdefghijkl",
            "Invalid schema, see [url] key [secret]",
        ),
        ("Connection to 10.0.0.11:8000 refused by gpu-a.internal", "Connection to [address] refused by [host]"),
        (
            "vLLM: This model's maximum context length is 4096 tokens.",
            "upstream: This model's maximum context length is 4096 tokens.",
        ),
    ] {
        assert_eq!(clean(raw), message);
    }
}

#[test]
fn the_most_specific_text_is_taken() {
    for (raw, message) in [
        (r#"{"error":{"message":"one"},"message":"two","detail":"three"}"#, "one"),
        (r#"{"error":{"message":null},"message":"two","detail":"three"}"#, "two"),
        (r#"{"error":"plain","detail":"three"}"#, "three"),
        (r#"{"detail":[{"msg":"m"}]}"#, r#"{"detail":[{"msg":"m"}]}"#),
        (r#"{"error":"plain"}"#, r#"{"error":"plain"}"#),
        ("Bad Gateway", "Bad Gateway"),
        (r#""text""#, r#""text""#),
    ] {
        assert_eq!(clean(raw), message);
    }
}

#[test]
fn control_characters_and_white_space_become_one_space() {
    assert_eq!(clean("a\u{0}b\r\n\t c\u{85}\u{a0} d "), "a b c d");
    assert_eq!(clean(r#"{"message":"a\u001b[31mred"}"#), "a red");
}

#[test]
fn marks_of_terminals_and_of_json_hide_no_word() {
    for (raw, expected) in [
        ("\u{1b}[31mvLLM\u{1b}[0m: \u{1b}[1;4msk-abcdefgh1234\u{1b}[m", "upstream : [secret]"),
        (r#"[{"msg":"bad\nsk-abcdefgh1234\t10.0.0.1\r\nvllm"}]"#, r#"[{"msg":"bad [secret] [address] upstream"}]"#),
        (r"x\\nhf_abcdefgh1234\u000agpu-a.internal", "x [secret] [host]"),
        (r"x \u001b[31mgroq\u001b[0m", "x upstream"),
        (r"at http:\/\/gpu-a:8000\/v1", "at [url]"),
        (r"no \nabc in C:\new\table", "no abc in [path]"),
    ] {
        assert_eq!(clean(raw), expected, "{raw}");
    }
}

#[test]
fn exception_names_go_only_in_front() {
    for (raw, message) in [
        ("ValueError: x", "x"),
        ("litellm.exceptions.BadRequestError - Error: Exception : x", "x"),
        ("Bad value: ValueError: x", "Bad value: ValueError: x"),
        ("Errors: x", "Errors: x"),
    ] {
        assert_eq!(clean(raw), message);
    }
}

#[test]
fn the_model_is_named_as_the_client_knows_it() {
    assert_eq!(clean("No meta-llama/Llama-4-Scout here"), "No llama-4-scout here");
    assert_eq!(SANITIZER.message(b"as it is", "", "slug"), "as it is");
}

#[test]
fn urls_go_whole() {
    for (raw, message) in [
        ("see https://a.b/c?d=e#f.", "see [url]."),
        ("(redis://user:pw@10.0.0.1:6379/0)", "([url])"),
        ("'HTTP://[2001:db8::1]:80/x', y", "'[url]', y"),
        ("grpc+tls://x", "[url]"),
    ] {
        assert_eq!(clean(raw), message);
    }
}

#[test]
fn names_of_files_go_and_paths_of_an_api_stay() {
    for (raw, message) in [
        ("no such file: /root/.cache/huggingface/hub/models--x/snapshots/0a1b, retry", "no such file: [path], retry"),
        ("File \"/usr/lib/python3/site-packages/vllm/engine.py\", line 7.", "File \"[path]\", line 7."),
        ("[Errno 2] '/models/llama.gguf'", "[Errno 2] '[path]'"),
        ("at /somewhere/server.py:12", "at [path]:12"),
        ("dir=/srv/weights /home/al/x.", "dir=[path] [path]."),
        ("~/keys and C:\\Users\\al\\key.txt", "[path] and [path]"),
        ("POST /v1/chat/completions and GET /models", "POST /v1/chat/completions and GET /models"),
        (
            "at /messages/0/content, and/or 1/2 of application/json",
            "at /messages/0/content, and/or 1/2 of application/json",
        ),
    ] {
        assert_eq!(clean(raw), message);
    }
}

#[test]
fn keys_go_by_word_prefix_or_looks() {
    for (raw, message) in [
        ("Authorization: Bearer abc.def-1", "Authorization: [secret]"),
        ("{'bearer': 'abc123'}", "{'[secret]'}"),
        ("key sk-proj-********wxyz.", "key [secret]."),
        ("key=sk_live_1234567890", "key=[secret]"),
        ("pk-12345678 rk-12345678 gsk_12345678 hf_12345678", "[secret] [secret] [secret] [secret]"),
        ("nvapi-12345678, xai-12345678; AIzaSyA12345", "[secret], [secret]; [secret]"),
        ("sk-1234567", "sk-1234567"),
        ("the disk-utilization and task-management", "the disk-utilization and task-management"),
        ("0123456789abcdef0123456789abcdef", "[secret]"),
        ("0123456789abcdef0123456789abcde", "0123456789abcdef0123456789abcde"),
        ("01234567890123456789012345678901234567", "01234567890123456789012345678901234567"),
        ("Pneumonoultramicroscopicsilicovolcanoconiosis", "Pneumonoultramicroscopicsilicovolcanoconiosis"),
    ] {
        assert_eq!(clean(raw), message);
    }
}

#[test]
fn addresses_go_with_their_ports() {
    for (raw, message) in [
        ("10.0.0.11", "[address]"),
        ("at 192.168.1.7:443.", "at [address]."),
        ("2001:db8::1", "[address]"),
        ("[2001:db8::1]:8000 down", "[address] down"),
        ("[::1]", "[address]"),
        ("fe80::1%eth0 down", "[address] down"),
        ("from ::ffff:10.0.0.1, bad", "from [address], bad"),
        ("host:2001:db8::1.", "host:[address]."),
        ("2001:db8:0:0:0:0:0:1:8000", "[address]"),
        ("at 12:30:45 in std::fmt", "at 12:30:45 in std::fmt"),
        ("version 1.2.3", "version 1.2.3"),
    ] {
        assert_eq!(clean(raw), message);
    }
}

#[test]
fn hosts_go_and_paths_of_parameters_stay() {
    for (raw, message) in [
        ("GPU-A refused", "[host] refused"),
        ("llm.lab:8000/v1", "[host]/v1"),
        ("router.corp.intranet", "[host]"),
        ("api.fireworks.ai", "[host]"),
        ("svc-1.ns.svc.cluster.local:80 x", "[host] x"),
        ("localhost:11434", "[host]"),
        ("messages.0.content and tools.0.function.name", "messages.0.content and tools.0.function.name"),
        ("tools.de.name", "tools.de.name"),
        ("gpt-4.1 and v1.5", "gpt-4.1 and v1.5"),
        ("gpu-ab", "gpu-ab"),
    ] {
        assert_eq!(clean(raw), message);
    }
}

#[test]
fn providers_and_backends_become_one_word() {
    for (raw, message) in [
        ("OpenAI said", "upstream said"),
        ("the openai-compatible route", "the upstream-compatible route"),
        ("Together  AI, Mistral AI and Hugging Face", "upstream, upstream and upstream"),
        ("backend Cloud-2 of cloud-20", "backend upstream of cloud-20"),
        ("animation", "animation"),
    ] {
        assert_eq!(clean(raw), message);
    }
}

#[test]
fn a_message_has_a_length() {
    assert_eq!(clean(" \n "), NO_REASON);
    assert_eq!(clean(""), NO_REASON);
    assert_eq!(clean(&"é ".repeat(256)).chars().count(), 511);
    let cut = clean(&"é".repeat(513));
    assert_eq!(cut, format!("{}…", "é".repeat(511)));
    assert_eq!(clean(&"é".repeat(512)), "é".repeat(512));
    assert_eq!(clean(&"語".repeat(100_000)).chars().count(), 512);
}

#[test]
fn many_configured_hosts_are_no_problem() {
    let hosts = (0..300).map(|n| format!("gpu-{n}.rack-{n}.site"));
    let sanitizer = Sanitizer::new(hosts, [String::new(), "x".repeat(10_000)]);
    assert_eq!(sanitizer.message(b"gpu-299.rack-299.site:1 gpu-7.rack-7.site", "", ""), "[host] [host]");
}

#[test]
fn nothing_of_the_corpus_gives_the_upstream_away() {
    for (raw, _) in corpus::BODIES {
        let message = clean(raw);
        let lower = message.to_lowercase();
        for hidden in corpus::HIDDEN {
            assert!(!lower.contains(hidden), "{hidden:?} survives in {message:?}");
        }
        assert!(message.chars().count() <= MAX_MESSAGE_CHARS);
        assert_eq!(message, clean(raw), "the same every time");
    }
}

#[test]
fn the_corpus_stays_readable() {
    for (raw, readable) in corpus::BODIES {
        let message = clean(raw);
        assert!(message.contains(readable), "{readable:?} is lost in {message:?}");
    }
}
