//! Rewriting of answers: whole JSON bodies and stream chunks.
