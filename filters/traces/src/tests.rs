//! What variables ask for.

use std::time::Duration;

use dgx_gateway_filter::ambient::Ambient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;

use crate::collector::Encoding;
use crate::queue::Batching;
use crate::sampler::{Sampler, Share};
use crate::settings::{Export, read};

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

fn ambient(variables: &[(&str, &str)]) -> Ambient {
    Ambient::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn export(variables: &[(&str, &str)]) -> Export {
    match read(&ambient(variables)) {
        Ok(Some(export)) => export,
        Ok(None) => panic!("{variables:?} ask for no traces"),
        Err(problems) => panic!("{problems:?}"),
    }
}

fn resource(variables: &[(&str, &str)], key: &str) -> Vec<String> {
    let export = export(variables);
    let pairs = export.collector.resource.attributes.into_iter().filter(|pair| pair.key == key);
    let value = |value| match value {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    };
    pairs.map(|pair| value(pair.value.and_then(|any| any.value))).collect()
}

#[test]
fn without_a_collector_there_are_no_traces_and_no_problems() {
    let off: [&[(&str, &str)]; 5] = [
        &[],
        &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_SAMPLER", "x"), ("OTEL_SERVICE_NAME", "n")],
        &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
        &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
    ];
    for variables in off {
        assert!(matches!(read(&ambient(variables)), Ok(None)), "{variables:?}");
    }
    export(&[ENDPOINT, ("OTEL_SDK_DISABLED", "yes")]); // only true is true
}

#[test]
fn the_defaults_are_those_of_the_specification() {
    let export = export(&[ENDPOINT]);
    let batch = Batching { queue: 2048, batch: 512, delay: Duration::from_secs(5) };
    assert_eq!((export.batch, export.sampler), (batch, Sampler::ParentBased(Share::ALL)));
    let collector = &export.collector;
    assert_eq!(collector.url.as_str(), "http://collector:4318/v1/traces");
    assert_eq!(
        (collector.encoding, collector.gzip, collector.timeout),
        (Encoding::Protobuf, false, Duration::from_secs(10))
    );
    assert!(collector.headers.is_empty() && collector.certificates.is_empty());
}

#[test]
fn a_variable_of_traces_counts_more_than_one_of_all_signals() {
    let export = export(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other/as/it/is?x=1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "7"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "8"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "b=2,authorization=Bearer%20x"),
    ]);
    let collector = &export.collector;
    assert_eq!(collector.url.as_str(), "https://other/as/it/is?x=1");
    assert_eq!(
        (collector.encoding, collector.gzip, collector.timeout),
        (Encoding::Json, true, Duration::from_millis(8))
    );
    assert_eq!(collector.headers["authorization"], "Bearer x");
    assert!(collector.headers.values().all(http::HeaderValue::is_sensitive) && !collector.headers.contains_key("a"));
}

#[test]
fn the_path_for_traces_is_put_behind_that_of_all_signals() {
    for (endpoint, url) in [
        ("http://h", "http://h/v1/traces"),
        ("http://h/", "http://h/v1/traces"),
        ("https://h:1/otlp/", "https://h:1/otlp/v1/traces"),
    ] {
        assert_eq!(export(&[(ENDPOINT.0, endpoint)]).collector.url.as_str(), url);
    }
}

#[test]
fn samplers_have_the_names_of_the_specification() {
    let half = Share::of(0.5).unwrap();
    for (name, argument, sampler) in [
        ("always_on", "", Sampler::Root(Share::ALL)),
        ("always_off", "0.5", Sampler::Root(Share::NONE)),
        ("traceidratio", "0.5", Sampler::Root(half)),
        ("traceidratio", "", Sampler::Root(Share::ALL)),
        ("parentbased_always_on", "", Sampler::ParentBased(Share::ALL)),
        ("parentbased_always_off", "", Sampler::ParentBased(Share::NONE)),
        ("parentbased_traceidratio", "0.5", Sampler::ParentBased(half)),
    ] {
        let made = export(&[ENDPOINT, ("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)]).sampler;
        assert_eq!(made, sampler, "{name} {argument}");
    }
}

#[test]
fn the_resource_says_who_sends() {
    let with = |more: &[(&'static str, &'static str)]| [&[ENDPOINT], more].concat();
    assert_eq!(resource(&with(&[]), "service.name"), ["dgx-gateway"]);
    let given = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,deployment.environment.name=two%20words");
    assert_eq!(resource(&with(&[given]), "service.name"), ["a"]);
    assert_eq!(resource(&with(&[given]), "deployment.environment.name"), ["two words"]);
    assert_eq!(resource(&with(&[given, ("OTEL_SERVICE_NAME", "b")]), "service.name"), ["b"]);
    assert_eq!(resource(&with(&[]), "service.instance.id")[0].len(), 36);
}

#[test]
fn what_cannot_be_used_is_named_without_its_value() {
    let bad = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "canary:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://canary"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "canary"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "canary"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b=canary"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=canary%0a"),
        ("OTEL_EXPORTER_OTLP_HEADERS_FILE", "/nowhere/canary"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "canary"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/canary"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "Cargo.toml"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "canary"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_TRACES_EXPORTER", "canary"),
        ("OTEL_TRACES_SAMPLER", "canary"),
        ("OTEL_RESOURCE_ATTRIBUTES", "canary"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "canary"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "0"),
    ];
    for (name, value) in bad {
        let Err(problems) = read(&ambient(&[ENDPOINT, (name, value)])) else { panic!("{name}={value} is taken") };
        assert!(problems.iter().all(|problem| problem.key == name), "{problems:?}");
        assert!(!format!("{problems:?}").contains("canary"), "{problems:?}");
    }
    let ratio = [ENDPOINT, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
    assert!(read(&ambient(&ratio)).is_err_and(|problems| problems[0].key == "OTEL_TRACES_SAMPLER_ARG"));
    let all: Vec<_> = bad.iter().copied().skip(3).collect();
    assert!(read(&ambient(&[&[ENDPOINT], &*all].concat())).is_err_and(|problems| problems.len() > 10), "all at once");
}
