//! Request bodies: one incremental scan, patches instead of re-serialising.
//!
//! [`Scanner`] reads a JSON body in the chunks in which it arrives, refuses malformed JSON at the bad byte and
//! records what the gateway has to know: where the members of the top level stand, how much text the prompt
//! holds, and which content rules are broken. It keeps no byte of the body, so its memory does not grow with it.
//! [`patch`] turns what the scan found into splices of the held body.
//!
//! What a finding means for a model (whether it accepts images, which caps apply) is left to the caller.

mod arguments;
mod embedding;
mod error;
mod finding;
mod image;
mod json;
mod message;
mod name;
mod number;
mod part;
pub mod patch;
mod path;
mod recorder;
mod rerank;
mod run;
mod scan;
mod source;
#[cfg(test)]
mod tests;
mod text;

pub use self::embedding::{InputSize, MAX_INPUT_BYTES, MAX_INPUT_TOKENS, MAX_INPUTS};
pub use self::error::{ScanError, ScanErrorKind};
pub use self::finding::{Finding, Location, MAX_FINDINGS, PartPath, Problem};
pub use self::json::{Kind, MAX_DEPTH};
pub use self::rerank::{MAX_DOCUMENT_BYTES, MAX_DOCUMENTS};
pub use self::scan::{Member, Protocol, Scan, Scanner};
