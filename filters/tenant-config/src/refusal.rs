//! How a request is refused.

use std::fmt::Display;

use dgx_gateway_filter::tenant_config::Wrong;
use dgx_gateway_filter::{ErrorCode, FilterError};
use dgx_gateway_store::StoreError;

/// Most characters of a name that a client invented and that is said back to it.
const SAID_BACK: usize = 128;

/// Where a key stands in a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// In `config`.
    Config(&'a str),
    /// In the path, so that its value is `value`.
    Path(&'a str),
}

impl Place<'_> {
    /// The `param` of the key.
    fn key(self) -> String {
        match self {
            Self::Config(name) => in_config(name),
            Self::Path(_) => "path.key".to_owned(),
        }
    }

    /// The `param` of its value.
    fn value(self) -> String {
        match self {
            Self::Config(name) => in_config(name),
            Self::Path(_) => "value".to_owned(),
        }
    }

    fn name(self) -> String {
        let (Self::Config(name) | Self::Path(name)) = self;
        name.chars().take(SAID_BACK).collect()
    }
}

fn in_config(name: &str) -> String {
    format!("config.{}", name.chars().take(SAID_BACK).collect::<String>())
}

pub(crate) fn unknown(place: Place<'_>) -> FilterError {
    let message = "There is no such key. See GET /v1/tenant/config.";
    FilterError::client(ErrorCode::TenantConfigKeyUnknown, message).param(place.key())
}

pub(crate) fn fixed(place: Place<'_>) -> FilterError {
    let message = format!("Key {} is fixed by the product.", place.name());
    FilterError::client(ErrorCode::TenantConfigKeyReadonly, message).param(place.key())
}

pub(crate) fn of_operator(place: Place<'_>) -> FilterError {
    let message = format!("Key {} is set by the operator in tokens.yaml.", place.name());
    FilterError::client(ErrorCode::TenantConfigKeyReadonly, message).param(place.key())
}

pub(crate) fn value(place: Place<'_>, wrong: &Wrong) -> FilterError {
    let item = wrong.item.map(|index| format!("[{index}]")).unwrap_or_default();
    let message = format!("Key {}{item} {}.", place.name(), wrong.message);
    FilterError::client(ErrorCode::TenantConfigValueInvalid, message).param(place.value())
}

pub(crate) fn model(place: Place<'_>) -> FilterError {
    let message =
        format!("Key {} must name a model that the tenant may use for this. See GET /v1/models.", place.name());
    FilterError::client(ErrorCode::TenantConfigValueInvalid, message).param(place.value())
}

pub(crate) fn missing(name: &'static str) -> FilterError {
    FilterError::client(ErrorCode::MissingField, format!("The member {name} is required.")).param(name)
}

pub(crate) fn no_object() -> FilterError {
    FilterError::client(ErrorCode::InvalidField, "config must be an object of keys and values.").param("config")
}

pub(crate) fn not_json(error: &dyn Display) -> FilterError {
    FilterError::client(ErrorCode::InvalidJson, format!("The body is not a valid JSON object: {error}."))
}

pub(crate) fn storage(error: StoreError) -> FilterError {
    let mut refusal = FilterError::internal(error);
    refusal.code = ErrorCode::StorageError;
    refusal.message = "The configuration could not be stored. Try again.".into();
    refusal
}
