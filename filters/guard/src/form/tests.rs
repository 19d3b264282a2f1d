use dgx_gateway_testkit::exchange::ExchangeDriver;
use http::Method;

use super::*;

const TYPE: (&str, &str) = ("content-type", "multipart/form-data; boundary=b");

fn driver(protocol: FormProtocol, headers: &[(&str, &str)]) -> ExchangeDriver {
    let exchange = FormFilter { protocol }.begin();
    ExchangeDriver::of(exchange, Method::POST, "/v1/audio/transcriptions", headers).unwrap()
}

fn text(name: &str, value: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn file(name: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\nRIFF\r\n")
}

/// Sends a whole form; the outcome is the code and the param of the refusal, if there is one.
async fn outcome(headers: &[(&str, &str)], parts: &[String], step: usize) -> Option<(ErrorCode, String)> {
    let mut driver = driver(FormProtocol::Transcription, headers);
    let body = parts.concat() + "--b--\r\n";
    let said = |error: FilterError| Some((error.code, error.param.unwrap_or_default().into_owned()));
    if let Err(error) = driver.head().await {
        return said(error);
    }
    for piece in body.as_bytes().chunks(step) {
        if let Err(error) = driver.chunk(Bytes::copy_from_slice(piece)) {
            return said(error);
        }
    }
    driver.ready(&mut Rope::new()).await.err().and_then(said)
}

/// Headers, parts, and the refusal.
type Case<'a> = (&'a [(&'a str, &'a str)], Vec<String>, Option<(ErrorCode, &'a str)>);

async fn check_all(cases: &[Case<'_>]) {
    for (headers, parts, expected) in cases {
        let expected = expected.map(|(code, param)| (code, param.to_owned()));
        for step in [1, 7, 10_000] {
            assert_eq!(outcome(headers, parts, step).await, expected, "{headers:?} {parts:?} {step}");
        }
    }
}

#[tokio::test]
async fn fields_are_checked_in_any_order_and_however_they_are_cut() {
    use ErrorCode::{InvalidField, MissingField};
    let good = || vec![text("model", "m"), file("a.WAV")];
    let with = |name: &str, value: &str| [good(), vec![text(name, value)]].concat();
    let mut cases: Vec<Case<'_>> = vec![
        (&[TYPE], good(), None),
        (&[TYPE], good().into_iter().rev().collect(), None),
        (&[TYPE], vec![text("model", "m")], Some((MissingField, "file"))),
        (&[TYPE], vec![file("a.wav")], Some((MissingField, "model"))),
        (&[TYPE], vec![], Some((MissingField, "file"))),
        (&[TYPE], vec![file("a.wav"), text("model", "")], Some((MissingField, "model"))),
        (&[TYPE], vec![text("file", "x"), text("model", "m")], Some((InvalidField, "file"))),
        (&[TYPE], with("model", "other"), Some((InvalidField, "model"))),
        (&[TYPE], [good(), vec![file("b.wav")]].concat(), Some((InvalidField, "file"))),
        (&[TYPE], with("user_id", "mallory"), Some((InvalidField, "body.user_id"))),
        (&[TYPE], with("user", "alice"), None),
        (&[TYPE], [good(), vec!["--b?".to_owned()]].concat(), Some((InvalidField, "body"))),
    ];
    for name in ["a.txt", "wav", "a.", "", "a.wav.exe"] {
        cases.push((&[TYPE], vec![file(name), text("model", "m")], Some((InvalidField, "file"))));
    }
    for (name, takes, refuses) in [
        ("response_format", vec!["json", "text", "srt", "vtt", "verbose_json"], vec!["xml", "JSON", ""]),
        ("stream", vec!["true", "false", "True"], vec!["yes", "1", ""]),
        ("temperature", vec!["0", "0.7", "2", "1e-1"], vec!["-0.1", "2.1", "hot", "NaN", "inf", ""]),
    ] {
        cases.extend(takes.into_iter().map(|value| (&[TYPE] as _, with(name, value), None)));
        cases.extend(refuses.into_iter().map(|value| (&[TYPE] as _, with(name, value), Some((InvalidField, name)))));
    }
    check_all(&cases).await;
}

#[tokio::test]
async fn the_mode_is_one_of_two_and_windows_have_no_times() {
    let param = Some((ErrorCode::InvalidField, "headers.spass-stt-mode"));
    let mode = |mode| [TYPE, ("spass-stt-mode", mode)];
    let with = |name: &str, value: &str| vec![text(name, value), text("model", "m"), file("a.wav")];
    for (headers, field, expected) in [
        (mode("continuous"), ("response_format", "srt"), None),
        (mode("continuous"), ("stream", "true"), None),
        (mode("chunked"), ("response_format", "text"), None),
        (mode("chunked"), ("stream", "false"), None),
        (mode("chunked"), ("response_format", "verbose_json"), param),
        (mode("chunked"), ("stream", "true"), param),
        (mode("live"), ("response_format", "json"), param),
        (mode(""), ("response_format", "json"), param),
    ] {
        check_all(&[(&headers, with(field.0, field.1), expected)]).await;
    }
    let mut translation = driver(FormProtocol::Translation, &mode("live"));
    assert!(translation.head().await.is_ok(), "it is ignored on other endpoints");
    assert_eq!(translation.facts().get::<SttMode>(), Some(&SttMode::Continuous));
}

#[tokio::test]
async fn another_type_or_an_encoding_is_refused_before_the_body() {
    for (headers, param) in [
        (vec![("content-type", "application/json")], "headers.content-type"),
        (vec![], "headers.content-type"),
        (vec![("content-type", "multipart/form-data")], "headers.content-type"),
        (vec![TYPE, ("content-encoding", "gzip")], "headers.content-encoding"),
    ] {
        let error = driver(FormProtocol::Transcription, &headers).head().await.unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), (ErrorCode::UnsupportedMediaType, Some(param)));
    }
}

#[tokio::test]
async fn the_model_can_be_chosen_once_its_name_and_that_of_the_file_are_known() {
    let mut driver = driver(FormProtocol::Transcription, &[TYPE]);
    driver.head().await.unwrap();
    assert!(!driver.seen_enough());
    let form = text("model", "m") + &file("a.wav");
    let (begun, rest) = form.split_at(form.find("RIFF").unwrap());
    driver.chunk(begun.to_owned()).unwrap();
    assert!(driver.seen_enough());
    driver.ready(&mut Rope::new()).await.unwrap();
    assert_eq!(driver.facts().get::<Form>().unwrap().value("model"), Some("m"));
    driver.chunk(rest.to_owned()).unwrap();
    let late = text("user_id", "mallory");
    let error = driver.chunk(late.to_owned()).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("body.user_id"), "what comes behind the file is checked, too");
}
