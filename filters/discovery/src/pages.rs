//! `/api/version` and `/errors`, and the pages of [`docs`].

use axum::routing::get;
use axum::{Json, Router};
use dgx_gateway_filter::{BuildEnv, BuildError, EndpointKind};
use dgx_gateway_wire::errors::catalog::catalog_json;
use serde::Serialize;

use crate::docs;

/// The endpoint kind `pages`.
pub struct Pages;

impl EndpointKind for Pages {
    const NAME: &'static str = "pages";

    fn build(_env: &BuildEnv) -> Result<Router, BuildError> {
        let errors = catalog_json();
        let errors = move || {
            let errors = errors.clone();
            async move { Json(errors) }
        };
        let pages =
            Router::new().route("/api/version", get(|| async { Json(version()) })).route("/errors", get(errors));
        Ok(pages.merge(docs::router()))
    }
}

/// What was built, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Name of the product.
    pub name: &'static str,
    /// Version of the product.
    pub version: &'static str,
    /// Commit; zeros when built outside a checkout.
    pub git_sha: &'static str,
    /// Day of the build in UTC.
    pub build_date: String,
}

/// The version of this binary.
#[must_use]
pub fn version() -> Version {
    let epoch = env!("GATEWAY_BUILD_EPOCH").parse().unwrap_or(0);
    let build_date = jiff::Timestamp::from_second(epoch).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string();
    Version { name: "dgx-gateway", version: env!("CARGO_PKG_VERSION"), git_sha: env!("GATEWAY_GIT_SHA"), build_date }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_has_the_form_of_the_contract() {
        let version = version();
        assert_eq!(version.git_sha.len(), 40);
        assert!(version.build_date.ends_with("T00:00:00Z"), "{}", version.build_date);
    }
}
