//! Tells the service manager how the process is, as systemd wants to hear it (`sd_notify`): datagrams to the socket that
//! `NOTIFY_SOCKET` names. Without one nothing is said.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use dgx_gateway_filter::ambient::Ambient;
use rustix::time::{ClockId, clock_gettime};

/// The service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Finds the service manager. One that cannot be reached is said in the log and left alone.
    #[must_use]
    pub fn new(ambient: &Ambient) -> Self {
        let manager = ambient.var("NOTIFY_SOCKET").and_then(|name| {
            connect(name).inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET cannot be used")).ok()
        });
        let watchdog = manager.as_ref().and_then(|_| watchdog(ambient, std::process::id()));
        Self { manager, watchdog }
    }

    /// The listeners are open, or a reload is over.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// A reload begins; [`Self::ready`] follows, whatever comes of it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    /// Another process has taken the place of this one.
    pub fn main_process(&self, process: u32) {
        self.tell(&format!("MAINPID={process}"));
    }

    /// The process is being stopped.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Says again and again that the process is alive, if somebody wants to hear it. Runs where the requests run, so
    /// that it falls silent with them.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub async fn keep_alive(&self) {
        let Some(timeout) = self.watchdog else { return };
        let mut times = tokio::time::interval(timeout / 2);
        loop {
            times.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, what: &str) {
        let Some((socket, manager)) = &self.manager else { return };
        if let Err(error) = socket.send_to_addr(what.as_bytes(), manager) {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

fn connect(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(name.as_bytes()))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?; // a manager that does not listen holds nothing up
    Ok((socket, address))
}

/// How long the process may be silent, if it is the one that is meant.
fn watchdog(ambient: &Ambient, own_pid: u32) -> Option<Duration> {
    let meant = ambient.var("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(own_pid));
    let timeout = ambient.var("WATCHDOG_USEC").filter(|_| meant)?.parse().ok()?;
    Some(Duration::from_micros(timeout)).filter(|timeout| *timeout >= Duration::from_millis(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ambient(pairs: &[(&str, &str)]) -> Ambient {
        Ambient::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut words = [0; 256];
        let length = socket.recv(&mut words).unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    }

    #[test]
    fn speaks_to_a_path_and_to_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let named = format!("dgx-gateway-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&named).unwrap();
        for (name, socket) in [
            (path.to_str().unwrap().to_owned(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{named}"), UnixDatagram::bind_addr(&abstract_address).unwrap()),
        ] {
            let notifier = Notifier::new(&ambient(&[("NOTIFY_SOCKET", &name)]));
            notifier.ready();
            assert_eq!(heard(&socket), "READY=1");
            notifier.reloading();
            let words = heard(&socket);
            let usec: i64 = words.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
            assert!(usec > 0);
            notifier.stopping();
            assert_eq!(heard(&socket), "STOPPING=1");
        }
    }

    #[test]
    fn says_nothing_where_nobody_listens() {
        for name in ["", "/nonexistent/notify", "@nobody-has-this-name"] {
            let notifier = Notifier::new(&ambient(&[("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "1000000")]));
            notifier.ready();
            notifier.reloading();
        }
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_is_meant() {
        let second = Some(Duration::from_secs(1));
        for (pairs, expected) in [
            (vec![], None),
            (vec![("WATCHDOG_USEC", "1000000")], second),
            (vec![("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", "7")], second),
            (vec![("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", "8")], None),
            (vec![("WATCHDOG_USEC", "never")], None),
            (vec![("WATCHDOG_USEC", "0")], None),
        ] {
            assert_eq!(watchdog(&ambient(&pairs), 7), expected, "{pairs:?}");
        }
    }

    #[tokio::test]
    async fn keeps_alive_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let pairs = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "2000")];
        let notifier = Notifier::new(&ambient(&pairs));
        let hears = tokio::task::spawn_blocking(move || [(); 3].map(|()| heard(&socket)));
        tokio::select! {
            () = notifier.keep_alive() => panic!("it fell silent"),
            words = hears => assert_eq!(words.unwrap(), ["WATCHDOG=1"; 3]),
        }
    }
}
