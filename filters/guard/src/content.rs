//! The filter kind `guard`: content against what the chosen model takes.

use std::sync::Arc;

use async_trait::async_trait;
use dgx_gateway_filter::facts::ModelTraits;
use dgx_gateway_filter::{
    BuildEnv, BuildError, ErrorCode, Exchange, ExchangeCx, Filter, FilterError, FilterKind, Flow, Problem, Rope,
};
use dgx_gateway_wire::request::{self, Finding, Scan};
use schemars::JsonSchema;
use serde::Deserialize;

/// Parameters of a `guard` entry: none.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContentConfig {}

/// The kind.
pub struct Content;

impl FilterKind for Content {
    const NAME: &'static str = "guard";
    const AFTER: &'static [&'static str] = &["body", "models"];
    type Config = ContentConfig;
    type Checked = ();

    fn check(_raw: ContentConfig) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    fn build(_checked: (), _env: &BuildEnv) -> Result<Arc<dyn Filter>, BuildError> {
        Ok(Arc::new(ContentFilter))
    }
}

struct ContentFilter;

impl Filter for ContentFilter {
    fn begin(&self) -> Box<dyn Exchange> {
        Box::new(ContentExchange)
    }
}

struct ContentExchange;

#[async_trait]
impl Exchange for ContentExchange {
    async fn request_ready(&mut self, _body: &mut Rope, cx: &mut ExchangeCx<'_>) -> Result<Flow, FilterError> {
        let traits = cx.facts.get::<ModelTraits>().copied().unwrap_or_default();
        let first = |scan: &Scan, arguments: bool| {
            let of_step = |finding: &&Finding| (finding.problem == request::Problem::ToolArguments) == arguments;
            scan.findings.iter().filter(of_step).find_map(|finding| refusal(finding, traits))
        };
        // the arguments of tool calls are a step of their own, after the images, wherever they stand
        let refusal = cx.facts.get::<Scan>().and_then(|scan| first(scan, false).or_else(|| first(scan, true)));
        refusal.map_or(Ok(Flow::Continue), Err)
    }
}

/// The answer to a finding that no model takes.
pub(crate) fn refusal_of_all(finding: &Finding) -> Option<FilterError> {
    refusal(finding, ModelTraits { image_input: true, accepts_image_url: true })
}

/// The answer to a finding; `None` when the model takes it.
fn refusal(finding: &Finding, traits: ModelTraits) -> Option<FilterError> {
    use ErrorCode::{
        EmbeddingInputTooLarge, ImageBase64Invalid, ImageDecodeError, ImageUrlNotSupported, InvalidField, MissingField,
        ToolCallArgumentsInvalid,
    };
    use request::Problem as P;
    let (code, message) = match finding.problem {
        P::ImagePart if traits.image_input => return None,
        P::ImageUrlRemote if traits.accepts_image_url => return None,
        P::ImagePart => (InvalidField, "This model takes no images."),
        P::ImageUrlMissing => (MissingField, "An image part needs a URL."),
        P::ImageUrlNotString => (InvalidField, "The URL of an image must be a string."),
        P::ImageUrlRemote => (ImageUrlNotSupported, "Image URLs are not fetched. Send the image itself, in base64."),
        P::ImageDecode => {
            (ImageDecodeError, "The image must be a JPEG, PNG, WebP or GIF of the declared type, sent in base64.")
        }
        P::ImageBase64 => (
            ImageBase64Invalid,
            "The image is not valid base64: use the standard alphabet with padding and without line breaks.",
        ),
        P::ToolArguments => {
            (ToolCallArgumentsInvalid, "The arguments of a tool call must be a string that holds JSON.")
        }
        P::EmbeddingInputEmpty => (InvalidField, "An embedding input must not be empty."),
        P::EmbeddingInputType => (InvalidField, "An embedding input must be a string or an array of integers."),
        P::EmbeddingTooManyInputs => (EmbeddingInputTooLarge, "At most 256 inputs are embedded at once."),
        P::EmbeddingInputTooLarge => (EmbeddingInputTooLarge, "An embedding input has at most 8192 bytes."),
        P::EmbeddingTooManyTokens { .. } => (EmbeddingInputTooLarge, "An embedding input has at most 2048 tokens."),
        _ => return None, // refused before the model was chosen
    };
    Some(FilterError::client(code, message).param(finding.param()))
}
