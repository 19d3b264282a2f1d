//! The filter kind `headers`: request headers that are not about identity.
//!
//! `SPASS-Augment` is the only one that is read. `Idempotency-Key`, `SPASS-Caller-Depth`, `SPASS-Parent-Request-Id`
//! and `SPASS-Stt-Mode` mean nothing on the routes that list this kind, whatever they hold: nothing of a client's head
//! reaches an upstream.

use std::sync::Arc;

use async_trait::async_trait;
use dgx_gateway_filter::facts::{Augment, Augmentation};
use dgx_gateway_filter::tenant_config::TenantSettings;
use dgx_gateway_filter::{
    BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, Flow, Problem, ResponseHead,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use sfv::{BareItem, Dictionary, Item, ListEntry, Parser, Version};

const AUGMENT: HeaderName = HeaderName::from_static("spass-augment");
const AUGMENT_PARAM: &str = "headers.spass-augment";
const AUGMENT_APPLIED: HeaderName = HeaderName::from_static("spass-augment-applied");

/// Parameters of a `headers` entry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeadersConfig {
    /// Whether the gateway may add to the prompts of this route; the header `SPASS-Augment-Applied` of the answer then
    /// says what it added. `SPASS-Augment` is checked either way. Default false.
    pub augmented: bool,
}

/// The kind.
pub struct Headers;

impl FilterKind for Headers {
    const NAME: &'static str = "headers";
    const AFTER: &'static [&'static str] = &["access"];
    type Config = HeadersConfig;
    type Checked = HeadersConfig;

    fn check(raw: HeadersConfig) -> Result<HeadersConfig, Vec<Problem>> {
        Ok(raw)
    }

    fn build(checked: HeadersConfig, _env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(HeadersFilter { augmented: checked.augmented }))
    }
}

struct HeadersFilter {
    augmented: bool,
}

impl Filter for HeadersFilter {
    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(HeadersExchange { augmented: self.augmented })
    }
}

struct HeadersExchange {
    augmented: bool,
}

#[async_trait]
impl Exchange for HeadersExchange {
    async fn request_head(&mut self, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let asked = Asked::read(&cx.head.headers).ok_or_else(bad_augment)?;
        if self.augmented {
            let augmentation = asked.allowed_by(cx.facts.get::<TenantSettings>());
            cx.facts.insert(augmentation);
        }
        Ok(Flow::Continue)
    }

    fn response_head(&mut self, head: &mut ResponseHead, cx: &mut ExchangeCx<'_>) -> Result<(), FilterError> {
        if let Some(augmentation) = cx.facts.get::<Augmentation>().filter(|_| self.augmented) {
            head.headers.insert(AUGMENT_APPLIED, applied(*augmentation));
        }
        Ok(())
    }
}

fn bad_augment() -> FilterError {
    let message = "Header SPASS-Augment must be a dictionary of system-prompt, server-tools and memory, each with the \
                   value default or off.";
    FilterError::client(ErrorCode::InvalidField, message).param(AUGMENT_PARAM)
}

/// What the request says of each kind of addition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    memory: Wish,
    server_tools: Wish,
    system_prompt: Wish,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wish {
    #[default]
    Default,
    Off,
}

impl Asked {
    /// Reads all lines of the header as one dictionary of RFC 8941; `None` when they are none, or say anything else.
    /// An absent header, and an absent member, is `default`.
    fn read(headers: &HeaderMap) -> Option<Self> {
        let lines: Vec<&[u8]> = headers.get_all(AUGMENT).iter().map(HeaderValue::as_bytes).collect();
        let dictionary: Dictionary =
            Parser::new(&lines.join(&b", "[..])).with_version(Version::Rfc8941).parse().ok()?;
        let mut asked = Self::default();
        for (key, value) in &dictionary {
            let wish = Wish::read(value)?;
            match key.as_str() {
                "memory" => asked.memory = wish,
                "server-tools" => asked.server_tools = wish,
                "system-prompt" => asked.system_prompt = wish,
                _ => return None,
            }
        }
        Some(asked)
    }

    /// The request switches off before the tenant does.
    fn allowed_by(self, settings: Option<&TenantSettings>) -> Augmentation {
        let augment = |wish, switch: fn(&TenantSettings) -> bool| match wish {
            Wish::Off => Augment::Off,
            Wish::Default if settings.is_none_or(switch) => Augment::On,
            Wish::Default => Augment::Disabled,
        };
        Augmentation {
            memory: augment(self.memory, |settings| settings.augment_memory),
            server_tools: augment(self.server_tools, |settings| settings.augment_server_tools),
            system_prompt: augment(self.system_prompt, |settings| settings.augment_system_prompt),
        }
    }
}

impl Wish {
    /// A token; parameters are ignored.
    fn read(entry: &ListEntry) -> Option<Self> {
        let ListEntry::Item(Item { bare_item: BareItem::Token(token), .. }) = entry else { return None };
        match token.as_str() {
            "default" => Some(Self::Default),
            "off" => Some(Self::Off),
            _ => None,
        }
    }
}

/// What was added, as the header says it. This version adds nothing to any prompt, so the count of what may be added
/// is 0.
fn applied(augmentation: Augmentation) -> HeaderValue {
    let word = |augment| match augment {
        Augment::Disabled => "disabled",
        Augment::Off => "off",
        Augment::On => "0",
    };
    let text = format!(
        "system-prompt={}, server-tools={}, memory={}",
        word(augmentation.system_prompt),
        word(augmentation.server_tools),
        word(augmentation.memory)
    );
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
