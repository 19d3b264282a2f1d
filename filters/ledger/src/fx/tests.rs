//! Rates from documents of every kind, and which of them comes into use.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use dgx_gateway_filter::clock::ManualClock;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;

use super::*;

fn document(day: &str, usd: &str) -> String {
    SHIPPED.replace("2026-05-15", day).replace("1.1702", usd)
}

fn read(text: &str) -> Result<(String, String), String> {
    let rate = document::read(text.as_bytes()).map_err(|error| error.to_string())?;
    Ok((rate.day.to_string(), rate.rate.to_string()))
}

/// The morning of 2026-05-20.
fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_779_264_000)))
}

fn rules(source: Option<Source>) -> Rules {
    Rules { source, refresh_hours: 12, max_age_days: 7 }
}

fn exchange(directory: &Path, source: Option<Source>) -> Arc<Exchange> {
    Arc::new(Exchange::open(directory.join("fx"), rules(source), clock()))
}

fn used(exchange: &Exchange) -> String {
    let rate = exchange.rate();
    format!("{} {}", rate.source, rate.eur_per_usd)
}

#[test]
fn the_shipped_document_is_that_of_the_specification() {
    assert_eq!(document::read(SHIPPED.as_bytes()).unwrap(), LAST_RESORT);
}

#[test]
fn a_rate_is_the_inverse_with_four_digits_half_up() {
    for (usd, rate) in [
        ("1.1702", Ok("0.8546")),
        ("1", Ok("1.0000")),
        ("1.0000", Ok("1.0000")),
        ("0.2", Ok("5.0000")),
        ("5", Ok("0.2000")),
        ("1.25", Ok("0.8000")),
        ("1.6", Ok("0.6250")),
        ("3.2", Ok("0.3125")),
        ("4.999", Ok("0.2000")),
        ("1.99920", Ok("0.5002")),
        ("5.01", Err("outside")),
        ("0.199", Err("outside")),
        ("0", Err("outside")),
        ("-1.1", Err("no rate")),
        ("1e0", Err("no rate")),
        ("", Err("no rate")),
        ("1,17", Err("no rate")),
        ("NaN", Err("no rate")),
        ("&#49;", Err("no rate")),
        ("123456789012345678901", Err("no rate")),
    ] {
        match (read(&document("2026-05-15", usd)), rate) {
            (Ok((_, found)), Ok(rate)) => assert_eq!(found.parse::<Decimal>(), rate.parse(), "{usd}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{usd}: {error}"),
            (found, _) => panic!("{usd}: {found:?}"),
        }
    }
}

#[test]
fn a_document_of_another_shape_has_no_rate() {
    let usd = "<Cube currency='USD' rate='1.1702'/>";
    let bomb = format!(
        "<!DOCTYPE x [<!ENTITY a \"1.1702\">{}]>{}",
        (0..30).map(|n| format!("<!ENTITY a{n} \"&a;&a;&a;&a;\">")).collect::<String>(),
        SHIPPED.replace("1.1702", "&a;").split_once("?>").unwrap().1
    );
    let huge = SHIPPED.replace(usd, &format!("{usd}{}", " ".repeat(document::MAX_BYTES)));
    let many = SHIPPED.replace(usd, &format!("{usd}{}", "<x/>".repeat(20_000)));
    let deep = SHIPPED.replace(usd, &format!("{}{usd}{}", "<x>".repeat(5000), "</x>".repeat(5000)));
    for (text, part) in [
        (SHIPPED.replace(usd, "<Cube currency='JPY' rate='160'/>"), "no rate of USD"),
        (SHIPPED.replace(usd, &format!("{usd}{usd}")), "twice"),
        (SHIPPED.replace(" rate='1.1702'", ""), "no day or no rate"),
        (SHIPPED.replace(" time='2026-05-15'", ""), "has no day"),
        (SHIPPED.replace("2026-05-15", "2026-02-30"), "no day or no rate"),
        (SHIPPED.replace("2026-05-15", "20260515"), "no day or no rate"),
        (SHIPPED.replace("rate='1.1702'", "rate='1.1702' rate='1.2'"), "no XML"),
        (SHIPPED.replace("</gesmes:Envelope>", ""), "cut off"),
        (SHIPPED.replace("</gesmes:Envelope>", "</other>"), "no XML"),
        (format!("{SHIPPED}</x>"), "no XML"),
        (bomb, "no XML"),
        (huge, "larger"),
        (many, "larger"),
        (String::new(), "has no day"),
        ("<html><body>502 Bad Gateway</body></html>".to_owned(), "has no day"),
        ("{\"rate\":1}".to_owned(), "has no day"),
    ] {
        let found = read(&text);
        assert!(found.as_ref().is_err_and(|error| error.contains(part)), "{part}: {found:?} {:.200}", text);
    }
    assert!(read(&deep).is_ok());
    let earlier = "<Cube time='2026-05-14'><Cube currency='USD' rate='9'/></Cube>";
    let history = SHIPPED.replace("\t\t</Cube>\n", &format!("\t\t</Cube>{earlier}\n"));
    assert_eq!(read(&history).unwrap().1, "0.8546", "the first day of several");
    assert!(document::read(b"\xff\xfe<\x00").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_document_that_is_cut_anywhere_has_no_rate(at in 0..SHIPPED.trim_end().len()) {
        prop_assert!(document::read(&SHIPPED.as_bytes()[..at]).is_err());
    }

    /// Whatever is put in place of some bytes: no panic, and a rate only within its range.
    #[test]
    fn damage_gives_no_nonsense(at in 0..SHIPPED.len(), length in 0..40_usize, with in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut bytes = SHIPPED.as_bytes().to_vec();
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, with);
        if let Ok(rate) = document::read(&bytes) {
            prop_assert!(rate.rate >= Decimal::new(2, 1) && rate.rate <= Decimal::from(5) && rate.rate.scale() <= 4);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(document::read(&bytes).is_err());
    }
}

#[test]
fn the_newest_rate_is_used_kept_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = exchange(dir.path(), None);
    assert_eq!(used(&first), "ecb-2026-05-15 0.8546");
    first.offer(document("2026-05-18", "1.25").as_bytes()).unwrap();
    assert_eq!(used(&first), "ecb-2026-05-18 0.8000");
    for (day, usd, part) in [
        ("2026-05-15", "1.1702", "older"),
        ("2026-05-17", "1.1", "older"),
        ("2026-05-22", "1.1", "to come"),
        ("2999-01-01", "1.1", "to come"),
        ("2026-05-19", "9", "outside"),
    ] {
        let refused = first.offer(document(day, usd).as_bytes()).unwrap_err().to_string();
        assert!(refused.contains(part), "{refused}");
        assert_eq!(used(&first), "ecb-2026-05-18 0.8000");
    }
    first.offer(document("2026-05-18", "1.6").as_bytes()).unwrap();
    assert_eq!(used(&first), "ecb-2026-05-18 0.6250", "a correction of the same day");
    first.offer(document("2026-05-21", "2").as_bytes()).unwrap();
    let path = dir.path().join("fx/ecb-2026-05-21.xml");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(used(&exchange(dir.path(), None)), "ecb-2026-05-21 0.5000", "after a restart");
    std::fs::write(&path, "damaged").unwrap();
    assert_eq!(used(&exchange(dir.path(), None)), "ecb-2026-05-18 0.6250", "the next one that can be read");
    for file in std::fs::read_dir(dir.path().join("fx")).unwrap() {
        std::fs::write(file.unwrap().path(), document("2026-05-19", "1.7")).unwrap();
    }
    assert_eq!(used(&exchange(dir.path(), None)), "ecb-2026-05-15 0.8546", "a file of another day than its name");
}

#[test]
fn a_rate_that_cannot_be_kept_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("fx"), "a file in place of the directory").unwrap();
    let exchange = exchange(dir.path(), None);
    assert!(exchange.offer(document("2026-05-18", "1.25").as_bytes()).is_err());
    assert_eq!(used(&exchange), "ecb-2026-05-15 0.8546");
}

#[test]
fn a_rate_is_stale_after_its_days() {
    let dir = tempfile::tempdir().unwrap();
    let time = Arc::new(ManualClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_779_494_399)));
    let exchange = Exchange::open(dir.path().join("fx"), rules(None), Arc::clone(&time) as Arc<dyn Clock>);
    assert!(!exchange.is_stale(), "2026-05-22 23:59:59, 7 days");
    time.advance(Duration::from_secs(1));
    assert!(exchange.is_stale());
    exchange.follow(Rules { max_age_days: 8, ..rules(None) });
    assert!(!exchange.is_stale());
}

async fn server(body: String, status: StatusCode) -> MockUpstream {
    let behaviour = Behaviour::Status { status, headers: HeaderMap::new(), body: body.into() };
    MockUpstream::start(Script::always(behaviour)).await.unwrap()
}

#[tokio::test]
async fn a_server_or_a_file_is_asked_and_its_failure_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let look = async |source: Source| {
        let exchange = exchange(dir.path(), Some(source));
        (exchange.look().await, used(&exchange))
    };
    let shipped = "ecb-2026-05-15 0.8546";
    let gone = Source::File(dir.path().join("absent.xml"));
    assert_eq!(look(gone).await, (false, shipped.to_owned()));
    for (body, status) in [
        (document("2026-05-18", "1.25"), StatusCode::BAD_GATEWAY),
        ("<html/>".to_owned(), StatusCode::OK),
        (" ".repeat(2 * document::MAX_BYTES), StatusCode::OK),
    ] {
        let mock = server(body, status).await;
        let url = Source::Url(format!("http://{}/daily.xml", mock.addr()), None);
        assert_eq!(look(url).await, (false, shipped.to_owned()));
        assert_eq!(mock.requests().len(), 1);
    }
    let mock = server(document("2026-05-18", "1.25"), StatusCode::OK).await;
    let url = Source::Url(format!("http://{}/daily.xml", mock.addr()), None);
    assert_eq!(look(url).await, (true, "ecb-2026-05-18 0.8000".to_owned()));
    let file = dir.path().join("daily.xml");
    std::fs::write(&file, document("2026-05-19", "2")).unwrap();
    assert_eq!(look(Source::File(file)).await, (true, "ecb-2026-05-19 0.5000".to_owned()));
}
