//! The answer when a pinned tenant alias has used up the day of its provider.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dgx_gateway_filter::facts::Principal;
use dgx_gateway_filter::{ErrorCode, FilterError};
use http::{HeaderMap, StatusCode, header};

use crate::backend::BackendKind;
use crate::catalog::{Catalog, Entry, Slug};

const DAY: u64 = 24 * 60 * 60;

/// What is told when the day is used up; made while the request is there to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DailyQuota {
    family: Option<String>,
    fallbacks: Vec<String>,
    language: Language,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    English,
    German,
}

impl DailyQuota {
    /// `None` for a slug that is not pinned.
    pub(crate) fn of(
        slug: &Slug,
        catalog: &Catalog,
        principal: Option<&Principal>,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let named = slug.pinned.as_ref()?;
        // a slug of another tenant is not told
        let told = |name: &&String| catalog.find(name, principal).is_some() || !catalog.knows(name);
        Some(Self {
            family: slug.model.about.family.clone(),
            fallbacks: named.iter().filter(told).cloned().collect(),
            language: language(headers),
        })
    }

    /// Whether the body of this answer has to be read to tell a day from another limit.
    pub(crate) fn concerns(entry: &Entry, status: StatusCode) -> bool {
        entry.backend.kind == BackendKind::Openrouter && matches!(status.as_u16(), 402 | 429)
    }

    /// The answer.
    pub(crate) fn used_up(&self, now: SystemTime) -> FilterError {
        FilterError::policy(ErrorCode::OpenrouterDailyQuotaExhausted, self.message())
            .param("model")
            .retry_after(until_midnight(now))
            .available_fallbacks(self.fallbacks.clone())
    }

    fn message(&self) -> String {
        let family = self.family.as_deref();
        let (mut text, fallbacks) = match self.language {
            Language::English => {
                let family = family.map(|family| format!("{family} ")).unwrap_or_default();
                (
                    format!("The daily {family}limit at OpenRouter is used up. It resets at 00:00 UTC."),
                    "Available fallback models",
                )
            }
            Language::German => {
                let family = family.map(|family| format!(" für {family}")).unwrap_or_default();
                (
                    format!(
                        "Das Tageslimit{family} bei OpenRouter ist aufgebraucht. Es wird um 00:00 UTC zurückgesetzt."
                    ),
                    "Verfügbare Ausweichmodelle",
                )
            }
        };
        if !self.fallbacks.is_empty() {
            text.push_str(&format!(" {fallbacks}: {}.", self.fallbacks.join(", ")));
        }
        text
    }
}

/// The language named first counts; English for all but German.
fn language(headers: &HeaderMap) -> Language {
    let wanted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = wanted.split([',', ';']).next().unwrap_or_default().trim();
    match first.split('-').next() {
        Some(primary) if primary.eq_ignore_ascii_case("de") => Language::German,
        _ => Language::English,
    }
}

/// Until the next 00:00 UTC: at midnight itself a whole day.
fn until_midnight(now: SystemTime) -> Duration {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(DAY) - Duration::new(since.as_secs() % DAY, since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(language: Language, family: Option<&str>, fallbacks: &[&str]) -> DailyQuota {
        let fallbacks = fallbacks.iter().map(|slug| (*slug).to_owned()).collect();
        DailyQuota { family: family.map(str::to_owned), fallbacks, language }
    }

    #[test]
    fn the_text_names_the_family_and_the_fallbacks() {
        let both = ["acme-premium-claude-text", "acme-premium-gemini-text"];
        for (quota, text) in [
            (
                quota(Language::English, Some("GPT"), &both),
                "The daily GPT limit at OpenRouter is used up. It resets at 00:00 UTC. Available fallback models: acme-premium-claude-text, acme-premium-gemini-text.",
            ),
            (quota(Language::English, None, &[]), "The daily limit at OpenRouter is used up. It resets at 00:00 UTC."),
            (
                quota(Language::German, Some("GPT"), &both[..1]),
                "Das Tageslimit für GPT bei OpenRouter ist aufgebraucht. Es wird um 00:00 UTC zurückgesetzt. Verfügbare Ausweichmodelle: acme-premium-claude-text.",
            ),
            (
                quota(Language::German, None, &[]),
                "Das Tageslimit bei OpenRouter ist aufgebraucht. Es wird um 00:00 UTC zurückgesetzt.",
            ),
        ] {
            assert_eq!(quota.message(), text);
        }
    }

    #[test]
    fn the_wait_ends_at_the_next_midnight_utc() {
        for (seconds, wait) in
            [(0, 86_400), (1, 86_399), (54_000, 32_400), (86_399, 1), (86_400 * 20_000 + 54_000, 32_400)]
        {
            assert_eq!(until_midnight(UNIX_EPOCH + Duration::from_secs(seconds)).as_secs(), wait, "{seconds}");
        }
    }

    #[test]
    fn german_has_to_be_named_first() {
        for (text, expected) in [
            ("de", Language::German),
            ("de-AT, en;q=0.5", Language::German),
            ("DE;q=0.9", Language::German),
            ("en, de", Language::English),
            ("den", Language::English),
            ("*", Language::English),
            ("", Language::English),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, text.parse().unwrap());
            assert_eq!(language(&headers), expected, "{text}");
        }
        assert_eq!(language(&HeaderMap::new()), Language::English);
    }
}
