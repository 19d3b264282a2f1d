//! Uploads that stream: what arrives, what is refused, and what they cost.

mod form;
mod leaving;
mod memory;
mod models;
mod plain;
