//! Fair share: who may call a backend now, and who waits.

mod place;
mod queue;
