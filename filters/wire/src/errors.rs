//! The error catalog, the envelopes of the dialects, and sanitising of upstream texts.
