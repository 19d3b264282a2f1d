//! `dgx-gateway health`: asks the admin listener of a running gateway, found by the same configuration.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use dgx_gateway::config::{Config, Overrides};
use dgx_gateway_filter::ambient::Ambient;

/// Longest time for each step. The pages answer from memory.
const PATIENCE: Duration = Duration::from_secs(3);
/// More than any answer.
const MOST_BYTES: u64 = 64 * 1024;

/// Why it is not healthy, or nobody knows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HealthError {
    #[error("the configuration cannot be read, so it is not known where the gateway listens")]
    Config,
    #[error("{address} does not answer: {source}")]
    NoAnswer { address: SocketAddr, source: io::Error },
    #[error("{0}")]
    Unhealthy(String),
}

/// What the page says.
pub(crate) fn ask(ready: bool, overrides: &Overrides, ambient: &Ambient) -> Result<String, HealthError> {
    // keys of plug-ins are not looked at: a file that is being edited must not make a running gateway unhealthy
    let (config, _) = Config::load(overrides, ambient, &[]).map_err(|_| HealthError::Config)?;
    let address = reachable(config.server.admin_listen);
    let path = if ready { "/readyz" } else { "/healthz" };
    let answer = get(address, path).map_err(|source| HealthError::NoAnswer { address, source })?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let said = format!("{}\n", body.trim_end());
    if answer.starts_with("HTTP/1.1 200 ") { Ok(said) } else { Err(HealthError::Unhealthy(said.trim_end().to_owned())) }
}

fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

/// A listener on all addresses is reached on the loopback.
fn reachable(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_the_loopback() {
        for (listens, asked) in
            [("0.0.0.0:9090", "127.0.0.1:9090"), ("[::]:9090", "[::1]:9090"), ("192.0.2.1:1", "192.0.2.1:1")]
        {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), asked);
        }
    }
}
