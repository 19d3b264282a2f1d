//! Checks of request bodies.
