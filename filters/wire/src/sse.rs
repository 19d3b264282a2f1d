//! Framing of server-sent events.
