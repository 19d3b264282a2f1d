//! The service: without keys, because the standard variables say everything.

use std::sync::Arc;

use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::trace::Tracer;
use dgx_gateway_filter::{BuildEnv, BuildError, Problem, ServiceKind};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::events::Events;
use crate::exporter::Exporter;
use crate::queue::Queue;
use crate::settings::{self, Export};
use crate::tracer::OtlpTracer;

/// The service behind the variables `OTEL_*`.
#[derive(Debug)]
pub struct Service;

/// It has no keys.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {}

impl ServiceKind for Service {
    const NAME: &'static str = "traces";
    const KEYS: &'static [&'static str] = &[];
    type Settings = Settings;
    type Checked = Option<Box<Export>>;

    fn check(_settings: Settings, ambient: &Ambient) -> Result<Self::Checked, Vec<Problem>> {
        Ok(settings::read(ambient)?.map(Box::new))
    }

    fn build(checked: Self::Checked, env: &mut BuildEnv) -> Result<(), BuildError> {
        let Some(export) = checked else { return Ok(()) };
        // variables are those of the process, so a reload changes nothing
        let tracer = match env.previous::<OtlpTracer>() {
            Some(tracer) => tracer,
            None => start(*export, env)?,
        };
        env.provide(Arc::clone(&tracer));
        env.provide::<Arc<dyn Tracer>>(Arc::new(tracer));
        Ok(())
    }
}

fn start(export: Export, env: &mut BuildEnv) -> Result<Arc<OtlpTracer>, BuildError> {
    let events = Arc::new(Events::register(&env.metrics)?);
    let queue = Arc::new(Queue::new(export.batch, Arc::clone(&events)));
    let tracer = OtlpTracer::new(export.sampler, Arc::clone(&queue), Arc::clone(&env.clock));
    let exporter = Arc::new(Exporter::new(export.collector, queue, events));
    tracing::info!(collector.host = exporter.host(), "requests are traced");
    let ending = Arc::clone(&exporter);
    env.spawn("traces", async move { exporter.run().await });
    env.at_end(move || ending.end());
    Ok(Arc::new(tracer))
}
