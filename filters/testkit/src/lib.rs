//! For tests: an in-memory exchange, a fault-injecting mock upstream, a test client.
