//! LLM protocols as I/O-free code: bytes in, values out. Spawns nothing, reads no clock.

pub mod answer;
pub mod audio;
pub mod errors;
pub mod multipart;
pub mod request;
pub mod sse;
