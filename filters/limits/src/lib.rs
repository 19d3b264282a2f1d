//! Exact token buckets per bearer and per client address.
