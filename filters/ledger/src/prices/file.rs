//! The price file: its shape, and the table that is made from it.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::money::PricedModel;
use dgx_gateway_filter::{Problem, yaml};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::{Currency, Entry, PriceTable, Prices};

/// Most entries of a file: all are looked at for each call.
const MAX_ENTRIES: usize = 10_000;
/// Largest price: more than anything costs, and small enough that no product of it and a count is cut.
const MAX_PRICE: u32 = 1_000_000;
/// Digits of a price behind the point.
const MAX_DIGITS: u32 = 9;

/// The price file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PricingFile {
    /// Version of the form: 1.
    pub version: u32,
    /// Prices; the first entry that matches a call counts. At most 10000.
    #[serde(default)]
    pub entries: Vec<PriceFile>,
}

/// What some models cost at some backends. At least one price is set.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceFile {
    /// Id of the backend, as in `backends[].id`; `*` stands for any run of characters.
    pub backend: String,
    /// Name of the model at the backend, as in `route[].model` of the models file; `*` stands for any run of characters.
    pub model: String,
    /// Currency of the prices: `USD` or `EUR`. Amounts in EUR are billed without exchange and its markup. Default `USD`.
    #[serde(default)]
    pub currency: CurrencyFile,
    /// Per 1000000 tokens of the prompt. Default 0.
    pub input: Option<Price>,
    /// Per 1000000 tokens of the prompt that came from a cache. Default: `input`.
    pub cached_input: Option<Price>,
    /// Per 1000000 tokens of the prompt that were written into a cache. Default: `input`.
    pub cache_write: Option<Price>,
    /// Per 1000000 tokens of the answer, reasoning included. Default 0.
    pub output: Option<Price>,
    /// Per generated image. Default 0.
    pub image: Option<Price>,
    /// Per second of audio. Default 0.
    pub second: Option<Price>,
    /// Per call. Default 0.
    pub request: Option<Price>,
    /// First day of the prices in UTC, `YYYY-MM-DD`. Default: they have always counted.
    #[schemars(extend("format" = "date"))]
    pub valid_from: Option<String>,
    /// Day in UTC, `YYYY-MM-DD`, from which on they count no more. Default: they always will.
    #[schemars(extend("format" = "date"))]
    pub valid_to: Option<String>,
}

/// A currency.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
pub enum CurrencyFile {
    /// Euros.
    #[serde(rename = "EUR")]
    Eur,
    /// US dollars.
    #[default]
    #[serde(rename = "USD")]
    Usd,
}

/// A price as it is written: decimal text, or a number with at most 15 digits, which both keep what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price(String);

impl JsonSchema for Price {
    fn schema_name() -> Cow<'static, str> {
        "Price".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "0 to 1000000 with at most 9 digits behind the point, as text or as a number.",
            "type": ["string", "number"],
            "pattern": r"^[0-9]+(\.[0-9]{1,9})?$",
            "minimum": 0,
            "maximum": MAX_PRICE,
        })
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsText)
    }
}

struct AsText;

impl Visitor<'_> for AsText {
    type Value = Price;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a price such as \"0.50\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Price, E> {
        Ok(Price(text.to_owned()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Price, E> {
        Ok(Price(number.to_string()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Price, E> {
        Ok(Price(number.to_string()))
    }

    /// The shortest text that means this number: what was written, as long as that had at most 15 digits, and a price
    /// in range has no more.
    fn visit_f64<E: Error>(self, number: f64) -> Result<Price, E> {
        Ok(Price(number.to_string()))
    }
}

/// Reads the price file; an absent one is an empty table.
pub(crate) fn load(file: &Path, ambient: &Ambient, problems: &mut Vec<Problem>) -> PriceTable {
    let text = match ambient.config_file(file) {
        Ok(Some(text)) => text,
        Ok(None) => return PriceTable::default(),
        Err(error) => {
            problems.push(Problem::at("", format!("cannot be read: {error}")).in_file(file));
            return PriceTable::default();
        }
    };
    parse(&text, file, ambient).unwrap_or_else(|found| {
        problems.extend(found);
        PriceTable::default()
    })
}

/// The table of a file's text, or everything that is wrong with it.
pub(crate) fn parse(text: &str, file: &Path, ambient: &Ambient) -> Result<PriceTable, Vec<Problem>> {
    let document = yaml::parse(text, file, ambient)?;
    let read: PricingFile = yaml::read(document).map_err(|problem| yaml::located(vec![problem], file, text))?;
    let mut problems = Vec::new();
    let table = check(&read, &mut problems);
    if problems.is_empty() { Ok(table) } else { Err(yaml::located(problems, file, text)) }
}

fn check(file: &PricingFile, problems: &mut Vec<Problem>) -> PriceTable {
    if file.version != 1 {
        problems.push(Problem::at("version", "must be 1"));
    }
    if file.entries.len() > MAX_ENTRIES {
        problems.push(Problem::at("entries", format!("must be at most {MAX_ENTRIES}")));
        return PriceTable::default();
    }
    let entry = |(index, entry)| Checking { key: format!("entries[{index}]"), problems }.entry(entry);
    PriceTable::new(file.entries.iter().enumerate().map(entry).collect())
}

struct Checking<'a> {
    key: String,
    problems: &'a mut Vec<Problem>,
}

impl Checking<'_> {
    fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(Problem::at(format!("{}.{key}", self.key), message));
    }

    fn entry(mut self, file: &PriceFile) -> Entry {
        for (key, glob) in [("backend", &file.backend), ("model", &file.model)] {
            if glob.is_empty() {
                self.problem(key, "must not be empty; * matches all");
            }
        }
        let input = self.price("input", file.input.as_ref());
        let prices = Prices {
            input: input.unwrap_or_default(),
            cached_input: self.price("cached_input", file.cached_input.as_ref()).or(input).unwrap_or_default(),
            cache_write: self.price("cache_write", file.cache_write.as_ref()).or(input).unwrap_or_default(),
            output: self.price("output", file.output.as_ref()).unwrap_or_default(),
            image: self.price("image", file.image.as_ref()).unwrap_or_default(),
            second: self.price("second", file.second.as_ref()).unwrap_or_default(),
            request: self.price("request", file.request.as_ref()).unwrap_or_default(),
        };
        let all = [&file.input, &file.cached_input, &file.cache_write, &file.output, &file.image, &file.second];
        if all.into_iter().chain([&file.request]).all(Option::is_none) {
            self.problem("input", "the entry sets no price; a model that costs nothing has input: \"0\"");
        }
        let from = self.day("valid_from", file.valid_from.as_deref());
        let to = self.day("valid_to", file.valid_to.as_deref());
        if let (Some(from), Some(to)) = (from, to)
            && to <= from
        {
            self.problem("valid_to", "must be after valid_from");
        }
        let (backend, model) = (file.backend.clone(), file.model.clone());
        let currency = match file.currency {
            CurrencyFile::Eur => Currency::Eur,
            CurrencyFile::Usd => Currency::Usd,
        };
        Entry { models: PricedModel { backend, model, from, to }, currency, prices }
    }

    fn price(&mut self, key: &str, price: Option<&Price>) -> Option<Decimal> {
        let Price(text) = price?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let price = Decimal::from_str_exact(text).ok().map(|price| price.normalize());
        let price = price.filter(|price| plain && *price <= MAX_PRICE.into() && price.scale() <= MAX_DIGITS);
        if price.is_none() {
            let rule =
                format!("must be a decimal from 0 to {MAX_PRICE} with at most {MAX_DIGITS} digits behind the point");
            self.problem(key, rule);
        }
        price
    }

    /// The beginning of a day in UTC.
    fn day(&mut self, key: &str, text: Option<&str>) -> Option<SystemTime> {
        let text = text?;
        // the parser of dates knows more forms than one
        let date = text.parse::<Date>().ok().filter(|date| date.to_string() == text);
        let day = date.and_then(|date| date.to_zoned(TimeZone::UTC).ok()).map(|at| SystemTime::from(at.timestamp()));
        if day.is_none() {
            self.problem(key, "must be a day as in 2026-01-31");
        }
        day
    }
}
