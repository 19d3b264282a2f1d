//! The daily reference rates of the ECB: `<Cube time="…"><Cube currency="USD" rate="…"/></Cube>` in an envelope. Pure.

use jiff::civil::Date;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use rust_decimal::{Decimal, RoundingStrategy};

/// Largest document that is read; the real one has 2 KiB.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;
/// Most pieces of markup that are looked at; the real one has about a hundred.
const MAX_EVENTS: usize = 20_000;
/// Digits of a rate behind the point.
const RATE_DIGITS: u32 = 4;
/// Rates that make sense, in euros per dollar.
const RATES: std::ops::RangeInclusive<Decimal> =
    Decimal::from_parts(2, 0, 0, false, 1)..=Decimal::from_parts(5, 0, 0, false, 0);

/// The rate of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DayRate {
    /// The day that the document names.
    pub day: Date,
    /// Euros per US dollar, 4 digits behind the point.
    pub rate: Decimal,
}

/// Why a document has no rate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoRate {
    #[error("has no day")]
    NoDay,
    #[error("has no rate of USD")]
    NoDollar,
    #[error("has a rate outside 0.2 to 5")]
    OutOfRange,
    #[error("is larger than {MAX_BYTES} bytes, or has more than {MAX_EVENTS} pieces")]
    TooLarge,
    #[error("says the same twice")]
    Twice,
    #[error("is cut off")]
    Unfinished,
    #[error("has a value that is no day or no rate")]
    Value,
    #[error("is no XML of this kind")]
    Xml,
}

/// Reads a document; the first day in it counts. Document types are refused, so there are no entities to expand.
pub(crate) fn read(document: &[u8]) -> Result<DayRate, NoRate> {
    if document.len() > MAX_BYTES {
        return Err(NoRate::TooLarge);
    }
    let mut reader = Reader::from_reader(document);
    let mut found = Found::default();
    let mut depth = 0_usize;
    for _ in 0..MAX_EVENTS {
        match reader.read_event().map_err(|_| NoRate::Xml)? {
            Event::Start(element) => {
                found.element(&element)?;
                depth += 1;
            }
            Event::Empty(element) => found.element(&element)?,
            Event::End(_) => {
                depth = depth.checked_sub(1).ok_or(NoRate::Xml)?;
            }
            Event::DocType(_) => return Err(NoRate::Xml),
            Event::Eof if depth > 0 => return Err(NoRate::Unfinished),
            Event::Eof => return found.rate(),
            _ => {}
        }
    }
    Err(NoRate::TooLarge)
}

#[derive(Default)]
struct Found {
    day: Option<Date>,
    /// What follows is about an earlier day.
    is_past: bool,
    dollars: Option<Decimal>,
}

impl Found {
    fn element(&mut self, element: &BytesStart<'_>) -> Result<(), NoRate> {
        if element.local_name().as_ref() != b"Cube" {
            return Ok(());
        }
        let (mut time, mut currency, mut rate) = (None, None, None);
        for attribute in element.attributes() {
            let attribute = attribute.map_err(|_| NoRate::Xml)?;
            let place = match attribute.key.local_name().as_ref() {
                b"time" => &mut time,
                b"currency" => &mut currency,
                b"rate" => &mut rate,
                _ => continue,
            };
            *place = Some(std::str::from_utf8(&attribute.value).map_err(|_| NoRate::Value)?.to_owned());
        }
        if let Some(time) = time {
            if self.day.is_some() {
                self.is_past = true; // a day before the first one
                return Ok(());
            }
            // the parser of dates knows more forms than one
            let day = time.parse::<Date>().ok().filter(|day| day.to_string() == time);
            self.day = Some(day.ok_or(NoRate::Value)?);
        }
        if currency.as_deref() == Some("USD") && self.day.is_some() && !self.is_past {
            let dollars = decimal(&rate.ok_or(NoRate::Value)?)?;
            if self.dollars.replace(dollars).is_some() {
                return Err(NoRate::Twice);
            }
        }
        Ok(())
    }

    fn rate(self) -> Result<DayRate, NoRate> {
        let day = self.day.ok_or(NoRate::NoDay)?;
        let rate = Decimal::ONE.checked_div(self.dollars.ok_or(NoRate::NoDollar)?).ok_or(NoRate::OutOfRange)?;
        let mut rate = rate.round_dp_with_strategy(RATE_DIGITS, RoundingStrategy::MidpointAwayFromZero);
        rate.rescale(RATE_DIGITS); // shown with all its digits
        if RATES.contains(&rate) { Ok(DayRate { day, rate }) } else { Err(NoRate::OutOfRange) }
    }
}

/// Plain digits with a point.
fn decimal(text: &str) -> Result<Decimal, NoRate> {
    let plain = text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    Decimal::from_str_exact(text).ok().filter(|_| plain).ok_or(NoRate::Value)
}
