//! Public pages: is it alive, is it ready, which version, which errors; the errors for people, too.
//!
//! Two endpoint kinds: [`Health`] (`health`), also served by the admin listener, and [`Pages`] (`pages`). None of
//! them calls a backend or waits for anything.

mod docs;
mod health;
mod pages;

pub use self::health::Health;
pub use self::pages::{Pages, Version, version};
