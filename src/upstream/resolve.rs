//! Host names to addresses, with a short cache, so that the engine never resolves on a worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer of the resolver is used: 30 s follows a moved service soon and spares the resolver.
const FRESH: Duration = Duration::from_secs(30);
/// Most names kept. There are as many as configured upstreams; the cap is for safety.
const MOST_NAMES: usize = 4096;

struct Entry {
    address: SocketAddr,
    at: Instant,
}

/// A small caching resolver over that of the system.
#[derive(Default)]
pub struct Resolver {
    cache: Mutex<HashMap<(Arc<str>, u16), Entry>>,
}

impl Resolver {
    /// The address of a host; IP literals need no look-up. The first address that the system gives is taken,
    /// and a stale one is used while the resolver fails.
    ///
    /// # Errors
    /// The name is unknown.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn resolve(&self, host: &Arc<str>, port: u16) -> std::io::Result<SocketAddr> {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = literal.parse() {
            return Ok(SocketAddr::new(ip, port));
        }
        let key = (Arc::clone(host), port);
        let stale = match self.cached(&key) {
            Some((address, true)) => return Ok(address),
            other => other.map(|(address, _)| address),
        };
        match tokio::net::lookup_host((&*key.0, port)).await.map(|mut found| found.next()) {
            Ok(Some(address)) => {
                self.keep(key, address);
                Ok(address)
            }
            Ok(None) => {
                stale.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"))
            }
            Err(error) => stale.ok_or(error),
        }
    }

    fn cached(&self, key: &(Arc<str>, u16)) -> Option<(SocketAddr, bool)> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(key).map(|entry| (entry.address, entry.at.elapsed() < FRESH))
    }

    fn keep(&self, key: (Arc<str>, u16), address: SocketAddr) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MOST_NAMES {
            cache.retain(|_, entry| entry.at.elapsed() < FRESH);
        }
        if cache.len() < MOST_NAMES {
            cache.insert(key, Entry { address, at: Instant::now() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literals_and_names_resolve_and_unknown_names_fail() {
        let resolver = Resolver::default();
        assert_eq!(resolver.resolve(&"[::1]".into(), 80).await.unwrap().to_string(), "[::1]:80");
        assert!(resolver.resolve(&"localhost".into(), 80).await.unwrap().ip().is_loopback());
        assert!(resolver.resolve(&"no-such-host.invalid".into(), 80).await.is_err());
    }
}
