//! Listening sockets: bound here, or handed over by whoever starts the process (`LISTEN_FDS`, socket activation of
//! systemd).
//!
//! A socket that is handed over is known by its name in `LISTEN_FDNAMES`: `public` or `admin`. Without these names the
//! first one is the public listener and the second one that of administration. One that is not there is bound.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;

use dgx_gateway_filter::ambient::Ambient;
use listenfd::ListenFd;

use crate::config::Server;
use crate::server::StartError;

/// Names of listening sockets that are handed over, in the order that holds without names.
pub(crate) const NAMES: [&str; 2] = ["public", "admin"];
/// Name of a socket on which the process before waits to hear that this one is ready.
pub(crate) const READY: &str = "ready";

/// The listening sockets, open.
#[derive(Debug)]
pub struct Sockets {
    /// For the public.
    pub public: TcpListener,
    /// For metrics and administration.
    pub admin: TcpListener,
    /// Where the process before waits, if this one takes its place.
    pub ready: Option<UnixDatagram>,
}

impl Sockets {
    /// Takes what was handed over, and binds the rest.
    ///
    /// # Errors
    /// A port cannot be bound, or what was handed over is no listening socket of TCP.
    pub fn open(server: &Server, ambient: &Ambient) -> Result<Self, StartError> {
        let mut handed = ListenFd::from_env();
        let names = ambient.var("LISTEN_FDNAMES");
        let [public, admin] = places(names, handed.len());
        let ready = names.and_then(|names| names.split(':').position(|name| name == READY));
        let ready = ready.and_then(|place| handed.take_unix_datagram(place).ok().flatten());
        let mut open = |place: Option<usize>, address| match place {
            Some(place) => take(&mut handed, place),
            None => bind(address),
        };
        Ok(Self { public: open(public, server.listen)?, admin: open(admin, server.admin_listen)?, ready })
    }
}

/// Whether another process waits for this one to take its place.
#[must_use]
pub fn takes_over(ambient: &Ambient) -> bool {
    ambient.var("LISTEN_FDNAMES").is_some_and(|names| names.split(':').any(|name| name == READY))
}

fn take(handed: &mut ListenFd, place: usize) -> Result<TcpListener, StartError> {
    let taken = handed.take_tcp_listener(place).and_then(|listener| {
        let listener = listener.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    taken.map_err(|source| StartError::Inherited { place, source })
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Bind { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Which of the sockets that were handed over is the public one, and which that of administration.
fn places(names: Option<&str>, count: usize) -> [Option<usize>; 2] {
    let given: Vec<&str> = names.map(|names| names.split(':').take(count).collect()).unwrap_or_default();
    if given.iter().any(|name| NAMES.contains(name)) {
        NAMES.map(|name| given.iter().position(|given| *given == name))
    } else {
        [0, 1].map(|place| (place < count).then_some(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_known_by_their_names_else_by_their_order() {
        for (names, count, expected) in [
            (None, 0, [None, None]),
            (None, 1, [Some(0), None]),
            (None, 2, [Some(0), Some(1)]),
            (Some("unknown"), 1, [Some(0), None]),
            (Some("dgx-gateway.socket:dgx-gateway.socket"), 2, [Some(0), Some(1)]),
            (Some("public"), 1, [Some(0), None]),
            (Some("admin"), 1, [None, Some(0)]),
            (Some("admin:public"), 2, [Some(1), Some(0)]),
            (Some("other:public"), 2, [Some(1), None]),
            // more names than sockets
            (Some("admin:public"), 1, [None, Some(0)]),
        ] {
            assert_eq!(places(names, count), expected, "{names:?} {count}");
        }
    }
}
