//! Request bodies: one incremental scan, patches instead of re-serialising.
