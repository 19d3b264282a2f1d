//! Multipart forms (RFC 7578, RFC 2046 section 5.1), on bytes and in pieces of any size.
//!
//! The [`Scanner`] is pushed a body as it arrives and records in a [`Form`] what stands in it: the values of the
//! fields that its reader asked for, each bounded, and the names of files. What a file holds passes by.
//!
//! One fact a reader must know: whatever two readers of a form could understand differently is refused (a name in two
//! forms, a value in another encoding), because an upstream reads it again with a parser of its own.

mod boundary;
mod disposition;
mod finder;
mod scanner;

pub use self::boundary::Boundary;
pub use self::scanner::{Field, File, Form, FormError, Scanner, Wanted};

#[cfg(test)]
mod tests;
