//! The whole process, driven over sockets. One module per behaviour.
