//! An embedded model server without a model, for the first five minutes.
