//! Reaching upstreams: names to addresses, peers for the engine, services inside the process.

pub mod embedded;
pub mod peer;
pub(crate) mod pipe;
pub mod resolve;
