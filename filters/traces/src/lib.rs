//! Traces over OTLP: a span for each request, and one for each of its attempts at an upstream.
//!
//! Set up by the standard variables of OpenTelemetry alone, and off unless they name a collector: then no [`Tracer`] is
//! offered, and requests are not looked at. Names and attributes are those of OpenTelemetry's conventions for HTTP and for
//! generative AI. Of what a request or an answer says nothing is exported, nor any header, path, query, address or user.
//!
//! A span that has ended waits in a bounded queue; one task sends batches. A collector that is down or slow costs spans and
//! never time: what does not fit is dropped and counted.
//!
//! [`Tracer`]: dgx_gateway_filter::trace::Tracer
//!
//! | Module | Holds |
//! |---|---|
//! | `service` | the service: starts what the settings ask for |
//! | `settings` | the variables, checked; `pairs` reads lists in them |
//! | `sampler` | which requests are followed |
//! | `tracer` | where a request stands in its trace |
//! | `span` | a request and its attempts |
//! | `attributes` | what spans tell |
//! | `queue` | spans that wait to be sent |
//! | `collector` | one call of the collector, and what its answer means |
//! | `exporter` | the task that sends, and the last sending at the end |
//! | `events` | metrics and log lines about the export |

mod attributes;
mod collector;
mod events;
mod exporter;
mod pairs;
mod queue;
mod sampler;
mod service;
mod settings;
mod span;
#[cfg(test)]
mod tests;
mod tracer;

pub use self::service::{Service, Settings};
pub use self::settings::Export;
