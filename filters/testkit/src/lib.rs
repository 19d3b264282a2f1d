//! For tests: a fault-injecting mock upstream, raw clients, and a driver for the hooks of a filter.
//!
//! | Module | Holds |
//! |---|---|
//! | [`mock`] | an OpenAI-compatible upstream that misbehaves on demand, down to single bytes and resets |
//! | [`client`] | HTTP/1.1 and HTTP/2 clients that show what is on the wire and can leave at any moment |
//! | [`otlp`] | a collector of traces |
//! | [`redis`] | a real Redis server, for what several processes share |
//! | [`exchange`] | runs the hooks of one filter without a server |
//!
//! The program `mock-upstream` serves the mock to tests in other languages and to benchmarks.
//! Servers listen on loopback only, on a free port unless told otherwise, and stop when dropped.

pub mod client;
pub mod exchange;
pub mod mock;
pub mod otlp;
pub mod redis;

mod http1;
