use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::clock::SystemClock;
use dgx_gateway_testkit::exchange::ExchangeDriver;
use http::{Method, StatusCode};

use dgx_gateway_filter::tenant_config::TenantSettings;

use super::*;

const ON: Augmentation = Augmentation { memory: Augment::On, server_tools: Augment::On, system_prompt: Augment::On };

fn driver(augmented: bool, lines: &[&[u8]]) -> ExchangeDriver {
    let env = BuildEnv::new(Arc::new(SystemClock), Ambient::default(), "data".into(), prometheus::Registry::new());
    let filter = Headers::build(Headers::check(HeadersConfig { augmented }).unwrap(), &env).unwrap();
    let driver = ExchangeDriver::of(filter.begin(), Method::POST, "/v1/chat/completions", &[]).unwrap();
    lines.iter().fold(driver, |driver, line| driver.with_header(AUGMENT, HeaderValue::from_bytes(line).unwrap()))
}

/// The fact that is stated, or code and param of the refusal.
async fn read(lines: &[&[u8]]) -> Result<Augmentation, (&'static str, Option<String>)> {
    let mut driver = driver(true, lines);
    match driver.head().await {
        Ok(_) => Ok(*driver.facts().get::<Augmentation>().unwrap()),
        Err(error) => Err((error.code.as_str(), error.param.map(std::borrow::Cow::into_owned))),
    }
}

fn head() -> ResponseHead {
    ResponseHead { status: StatusCode::OK, headers: HeaderMap::new(), length: None }
}

#[tokio::test]
async fn what_is_left_out_is_default_and_off_is_taken() {
    let off = Augment::Off;
    let all_off = Augmentation { memory: off, server_tools: off, system_prompt: off };
    let cases: [(&[&[u8]], Augmentation); 17] = [
        (&[], ON),
        (&[b""], ON),
        (&[b"   "], ON),
        (&[b"memory=default"], ON),
        (&[b"memory=off"], Augmentation { memory: off, ..ON }),
        (&[b"server-tools=off"], Augmentation { server_tools: off, ..ON }),
        (&[b"system-prompt=off"], Augmentation { system_prompt: off, ..ON }),
        (&[b"server-tools=off, system-prompt=off, memory=off"], all_off),
        (&[b"server-tools=off,system-prompt=off\t,\tmemory=off"], all_off),
        (&[b"  memory=off  "], Augmentation { memory: off, ..ON }),
        // parameters are ignored
        (&[b"memory=off;since=12;why=\"a, b\";flag"], Augmentation { memory: off, ..ON }),
        (&[b"memory=off; q=0.5, server-tools=default;x=:aGk=:"], Augmentation { memory: off, ..ON }),
        // several lines are one dictionary
        (&[b"memory=off", b"server-tools=off"], Augmentation { memory: off, server_tools: off, ..ON }),
        (&[b"memory=off, system-prompt=off", b"server-tools=off"], all_off),
        // the last one of a key counts, and what stood before it is forgotten
        (&[b"memory=off, memory=default"], ON),
        (&[b"memory=7, memory=off"], Augmentation { memory: off, ..ON }),
        (&[b"memory=default", b"memory=off"], Augmentation { memory: off, ..ON }),
    ];
    for (lines, expected) in cases {
        assert_eq!(read(lines).await, Ok(expected), "{lines:?}");
    }
}

#[tokio::test]
async fn everything_else_is_an_invalid_field() {
    let cases: [&[&[u8]]; 33] = [
        // unknown keys
        &[b"tools=off"],
        &[b"memory=off, tools=off"],
        &[b"memory=off", b"tools=off"],
        &[b"*=off"],
        // other values
        &[b"memory=on"],
        &[b"memory=Off"],
        &[b"memory=OFF"],
        &[b"memory=offf"],
        &[b"memory=\"off\""],
        &[b"memory=?0"],
        &[b"memory=0"],
        &[b"memory=0.5"],
        &[b"memory=:b2Zm:"],
        &[b"memory"],
        &[b"memory;off"],
        &[b"memory=(off)"],
        &[b"memory=(default off)"],
        &[b"memory=off, memory=7"],
        &[b"memory=off", b"memory"],
        // bad syntax
        &[b"off"],
        &[b"Memory=off"],
        &[b"memory = off"],
        &[b"memory= off"],
        &[b"memory=off;"],
        &[b"memory=off;Since=1"],
        &[b"memory=off,"],
        &[b",memory=off"],
        &[b"memory=off,,server-tools=off"],
        &[b"memory=off server-tools=off"],
        &[b"{\"memory\": \"off\"}"],
        &[b"memory=off", b""],
        &[b"memory=\xc3\xb6ff"],
        &[b"memory=off;at=@1659578233"], // a date is of RFC 9651, not of RFC 8941
    ];
    for lines in cases {
        let refused = read(lines).await;
        assert_eq!(refused, Err(("invalid_field", Some(AUGMENT_PARAM.to_owned()))), "{lines:?}");
    }
}

#[tokio::test]
async fn a_semicolon_begins_a_parameter() {
    let memory_off = Augmentation { memory: Augment::Off, ..ON };
    assert_eq!(read(&[b"memory=off; server-tools=off "]).await, Ok(memory_off));
}

#[tokio::test]
async fn the_request_switches_off_before_the_tenant_does() {
    let settings = TenantSettings { augment_memory: false, augment_server_tools: false, ..TenantSettings::default() };
    let mut driver = driver(true, &[b"memory=off"]).with_fact(settings);
    driver.head().await.unwrap();
    let expected = Augmentation { memory: Augment::Off, server_tools: Augment::Disabled, system_prompt: Augment::On };
    assert_eq!(driver.facts().get::<Augmentation>(), Some(&expected));
    let mut head = head();
    driver.response_head(&mut head).unwrap();
    assert_eq!(head.headers[AUGMENT_APPLIED], "system-prompt=0, server-tools=disabled, memory=off");
}

#[tokio::test]
async fn the_answer_says_all_three_keys() {
    for (line, expected) in [
        ("", "system-prompt=0, server-tools=0, memory=0"),
        ("server-tools=off", "system-prompt=0, server-tools=off, memory=0"),
        ("system-prompt=off, memory=off, server-tools=off", "system-prompt=off, server-tools=off, memory=off"),
    ] {
        let mut driver = driver(true, &[line.as_bytes()]);
        driver.head().await.unwrap();
        let mut head = head();
        driver.response_head(&mut head).unwrap();
        assert_eq!(head.headers[AUGMENT_APPLIED], expected);
    }
}

#[tokio::test]
async fn a_route_without_augmentation_checks_the_header_and_says_nothing() {
    let mut silent = driver(false, &[b"memory=off"]);
    silent.head().await.unwrap();
    assert!(silent.facts().get::<Augmentation>().is_none());
    let mut head = head();
    silent.response_head(&mut head).unwrap();
    assert!(head.headers.is_empty());
    let error = driver(false, &[b"memory=maybe"]).head().await.unwrap_err();
    assert_eq!((error.code, error.param.as_deref()), (ErrorCode::InvalidField, Some(AUGMENT_PARAM)));
}

#[tokio::test]
async fn headers_that_mean_nothing_here_may_hold_anything() {
    let mut driver = driver(true, &[]);
    for name in ["idempotency-key", "spass-caller-depth", "spass-parent-request-id", "spass-stt-mode"] {
        driver = driver.with_header(HeaderName::from_static(name), HeaderValue::from_bytes(b"\xff 99 ,;").unwrap());
    }
    driver.head().await.unwrap();
    assert_eq!(driver.facts().get::<Augmentation>(), Some(&ON));
}

#[test]
fn headers_are_checked_after_access() {
    assert_eq!(Headers::AFTER, ["access"]);
}
