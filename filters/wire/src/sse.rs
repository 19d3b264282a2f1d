//! Framing of server-sent events (WHATWG HTML, section 9.2), on bytes.
//!
//! The [`Framer`] cuts a body into events wherever the network cut it into chunks. It never decodes text,
//! so a character split between two chunks comes out whole. What the data of an event means is the
//! concern of [`crate::answer`].
//!
//! Two facts a reader must know: an event comes out with the byte that ends it, and an event that lies in
//! one chunk is a slice of that chunk.

mod boundary;
mod event;
mod framer;

pub use self::event::{Event, encode};
pub use self::framer::{Framer, TooLarge};

#[cfg(test)]
mod tests;
