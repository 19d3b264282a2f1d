//! Rewriting of model answers: whole JSON bodies and the chunks of a stream.
//!
//! Only members that name the upstream are touched; every other byte stays as it was received, unknown
//! members included. Nothing here builds a tree of a document: its top-level members are found as slices,
//! and the few that matter are read through narrow views.
//!
//! Frames are the concern of [`crate::sse`], prices and counters that of the filters.

mod body;
mod chunk;
mod delta;
mod dialects;
mod images;
mod members;
mod own;
mod repeated;
mod rerank;
mod usage;

pub use self::body::{NotAnAnswer, RewrittenBody, rewrite_body};
pub use self::chunk::{Chunk, ChunkKind, Rewritten, Rules, later_usage, rewrite_chunk};
pub use self::delta::Choices;
pub use self::dialects::finish_reasons;
pub use self::images::{count_images, tells_where_images_lie};
pub use self::own::{CostMember, Stamp, StreamKind, cost_event};
pub use self::repeated::{ChunkReader, Repeated};
pub use self::rerank::sort_results;
pub use self::usage::plain_decimal;

#[cfg(test)]
mod tests;
