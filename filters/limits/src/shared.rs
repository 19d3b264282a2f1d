//! Buckets that several processes share, in a Redis server.
//!
//! | Module | Holds |
//! |---|---|
//! | `address` | the URL of the store, which nothing prints |
//! | `link` | the connection: time limits, the circuit that opens when the store fails, reconnection |
//! | `script` | one step on one bucket, as a script that runs as a whole |
//! | `store` | takes, reservations and settlements for the filters |
//! | `events` | what is logged and counted |

mod address;
mod events;
mod link;
mod script;
mod store;
#[cfg(test)]
mod tests;

pub use self::address::StoreAddress;
pub(crate) use self::link::Unavailable;
pub(crate) use self::script::Step;
pub(crate) use self::store::SharedStore;
