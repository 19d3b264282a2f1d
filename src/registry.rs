//! The only file that names plug-ins.
