//! Models: catalog, backends, routing, rewriting.
