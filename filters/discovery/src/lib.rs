//! Discovery endpoints: health, errors, version.
