//! The demo as a plug-in: it offers itself as an upstream inside the process.

use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::upstream::EmbeddedUpstreams;
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use schemars::JsonSchema;
use serde::Deserialize;

/// The service kind; it has no keys of its own.
pub struct Service;

/// No settings.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

impl ServiceKind for Service {
    const NAME: &'static str = "demo";
    const KEYS: &'static [&'static str] = &[];
    type Settings = Settings;
    type Checked = ();

    fn check(_settings: Settings, _ambient: &Ambient) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    fn build(_checked: (), env: &mut BuildEnv) -> Result<(), BuildError> {
        let offered = env
            .previous::<EmbeddedUpstreams>()
            .unwrap_or_else(|| Arc::new(EmbeddedUpstreams(vec![("demo", Arc::new(crate::router()))])));
        env.provide(offered);
        Ok(())
    }
}
