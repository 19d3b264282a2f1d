//! Keys `server` and `log`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::tls::{ServerTls, TlsFile};

/// File shape of `server`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerFile {
    /// Public listener, `address:port`. Default `127.0.0.1:3000`. Environment: `DGX_GATEWAY_LISTEN`.
    pub listen: Option<String>,
    /// Listener for metrics and administration, without authentication. Default `127.0.0.1:9090`.
    /// Environment: `DGX_GATEWAY_ADMIN_LISTEN`.
    pub admin_listen: Option<String>,
    /// Largest request body in bytes, after decoding; 1024 to 1073741824. Default 33554432.
    /// A larger one is answered 413. Environment: `MAX_BODY_BYTES`.
    pub max_body_bytes: Option<u64>,
    /// Largest upload (a multipart body) in bytes; 1024 to 1073741824. Default 104857600. A larger one is answered 413.
    /// Environment: `MAX_UPLOAD_BYTES`.
    pub max_upload_bytes: Option<u64>,
    /// Most bytes of uploads kept at one time by the whole process, almost all of them in files of `data_dir`; at
    /// least `max_upload_bytes`. Default 10737418240. When it is spent, further uploads are answered 503.
    pub max_spooled_bytes: Option<u64>,
    /// Most bytes of request bodies held at one time by the whole process, and as many of answers that are held until
    /// they are complete; at least `max_body_bytes`. Default 1073741824. When it is spent, further bodies are answered
    /// 503.
    pub max_held_bytes: Option<u64>,
    /// Most connections at one time; 1 to 1000000. Default 20000. Further ones are closed at once.
    pub max_connections: Option<u64>,
    /// Longest time of a whole exchange in seconds; 1 to 86400. Default 600.
    /// Environment: `HTTP_TOTAL_TIMEOUT_SECS`.
    pub total_timeout_seconds: Option<u64>,
    /// After a stop signal: how long new connections are still accepted, in seconds, so that whoever balances load can
    /// notice; 0 to 3600. Default 5.
    pub drain_grace_seconds: Option<u64>,
    /// After that: how long running requests may take, in seconds; 0 to 86400. Default 60.
    /// Environment: `DGX_GATEWAY_DRAIN_SECONDS`.
    pub drain_seconds: Option<u64>,
    /// Worker threads; 1 to 1024. Default: the number of processors.
    pub threads: Option<u64>,
    /// Networks of proxies in front, such as `127.0.0.1/32`; a single address is a network, too. Default: none. When
    /// the peer is in one of them, the client is the right-most entry of `X-Forwarded-For` that is in none; it counts
    /// for failed logins, public pages, `cidrs` and the log. A network that holds clients lets them choose their
    /// address.
    pub trusted_proxies: Vec<String>,
    /// Whether `/metrics` is served on the public listener, too. Default false: there it is 404, because it names tenants
    /// and backends. Like all public pages it is limited per client.
    pub metrics_on_public: bool,
    /// Which web pages may call the gateway from a browser.
    pub cors: CorsFile,
    /// Certificate and key with which the public listener speaks TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 (ALPN). Default:
    /// none, it speaks HTTP without TLS. Both files are reloaded with the configuration: new connections get the new
    /// certificate. To begin or to end with TLS needs a restart.
    pub tls: Option<TlsFile>,
}

/// File shape of `server.cors`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CorsFile {
    /// Origins such as `https://app.example` or `http://localhost:5173`, or `"*"` for all. Default: none, then no CORS
    /// header is sent and `OPTIONS` is answered 405.
    pub allowed_origins: Vec<String>,
}

/// Origins whose pages may call from a browser.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// All.
    Any,
    /// These, in lower case; none by default.
    Listed(Arc<[String]>),
    /// None.
    #[default]
    None,
}

/// Checked `server`.
#[derive(Clone, Debug)]
pub struct Server {
    /// Public listener.
    pub listen: SocketAddr,
    /// Listener for metrics and administration.
    pub admin_listen: SocketAddr,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Largest upload in bytes.
    pub max_upload_bytes: usize,
    /// Most bytes of uploads kept by the whole process.
    pub max_spooled_bytes: usize,
    /// Most bytes held by the whole process.
    pub max_held_bytes: usize,
    /// Most connections at one time.
    pub max_connections: usize,
    /// Longest time of a whole exchange.
    pub total_timeout: Duration,
    /// How long new connections are accepted after a stop signal.
    pub drain_grace: Duration,
    /// How long running requests may take after that.
    pub drain: Duration,
    /// Worker threads.
    pub threads: usize,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Whether the metrics are a public page, too.
    pub metrics_on_public: bool,
    /// Origins whose pages may call from a browser.
    pub allowed_origins: AllowedOrigins,
    /// How the public listener speaks TLS, if it does.
    pub tls: Option<ServerTls>,
}

impl Server {
    pub(super) fn check(file: ServerFile, ambient: &Ambient, problems: &mut Vec<Problem>) -> Self {
        let mut check = Checker { ambient, problems };
        let listen = check.address("server.listen", "DGX_GATEWAY_LISTEN", file.listen, 3000);
        let admin_listen = check.address("server.admin_listen", "DGX_GATEWAY_ADMIN_LISTEN", file.admin_listen, 9090);
        let max_body_bytes =
            check.number("server.max_body_bytes", "MAX_BODY_BYTES", file.max_body_bytes, 1024, 1 << 30, 32 << 20);
        let held_floor = max_body_bytes as u64;
        let held_default = held_floor.max(1 << 30);
        let max_held_bytes =
            check.number("server.max_held_bytes", "", file.max_held_bytes, held_floor, 1 << 40, held_default);
        let max_upload_bytes = check.number(
            "server.max_upload_bytes",
            "MAX_UPLOAD_BYTES",
            file.max_upload_bytes,
            1024,
            1 << 30,
            100 << 20,
        );
        let spooled_floor = max_upload_bytes as u64;
        let spooled_default = 10 << 30;
        let max_spooled_bytes = check.number(
            "server.max_spooled_bytes",
            "",
            file.max_spooled_bytes,
            spooled_floor,
            1 << 44,
            spooled_default,
        );
        let max_connections = check.number("server.max_connections", "", file.max_connections, 1, 1_000_000, 20_000);
        let total = check.number(
            "server.total_timeout_seconds",
            "HTTP_TOTAL_TIMEOUT_SECS",
            file.total_timeout_seconds,
            1,
            86_400,
            600,
        );
        let drain_grace = check.number("server.drain_grace_seconds", "", file.drain_grace_seconds, 0, 3600, 5);
        let drain =
            check.number("server.drain_seconds", "DGX_GATEWAY_DRAIN_SECONDS", file.drain_seconds, 0, 86_400, 60);
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let threads = check.number("server.threads", "", file.threads, 1, 1024, processors);
        let trusted_proxies = check.networks("server.trusted_proxies", &file.trusted_proxies);
        let allowed_origins = check.origins("server.cors.allowed_origins", &file.cors.allowed_origins);
        let tls = file.tls.and_then(|tls| ServerTls::check(tls, "server.tls", ambient, check.problems));
        Self {
            listen,
            admin_listen,
            max_body_bytes,
            max_upload_bytes,
            max_spooled_bytes,
            max_held_bytes,
            max_connections,
            total_timeout: Duration::from_secs(total as u64),
            drain_grace: Duration::from_secs(drain_grace as u64),
            drain: Duration::from_secs(drain as u64),
            threads,
            trusted_proxies,
            metrics_on_public: file.metrics_on_public,
            allowed_origins,
            tls,
        }
    }
}

impl Server {
    /// Puts what only a restart changes back to how the process runs. Gives the keys that were changed.
    pub(super) fn keep_what_runs(&mut self, runs: &Self) -> Vec<&'static str> {
        let mut changed = Vec::new();
        if std::mem::replace(&mut self.listen, runs.listen) != runs.listen {
            changed.push("server.listen");
        }
        if std::mem::replace(&mut self.admin_listen, runs.admin_listen) != runs.admin_listen {
            changed.push("server.admin_listen");
        }
        if std::mem::replace(&mut self.threads, runs.threads) != runs.threads {
            changed.push("server.threads");
        }
        if self.tls.is_some() != runs.tls.is_some() {
            self.tls.clone_from(&runs.tls);
            changed.push("server.tls");
        }
        changed
    }
}

struct Checker<'a> {
    ambient: &'a Ambient,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    fn address(&mut self, key: &str, variable: &str, file: Option<String>, port: u16) -> SocketAddr {
        let default = SocketAddr::from(([127, 0, 0, 1], port));
        let Some(text) = self.ambient.var(variable).map(str::to_owned).or(file) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.problems.push(Problem::at(key, format!("must be address:port such as 127.0.0.1:{port}")));
            default
        })
    }

    fn networks(&mut self, key: &str, file: &[String]) -> Arc<[IpNet]> {
        let mut networks = Vec::with_capacity(file.len());
        for (index, text) in file.iter().enumerate() {
            match network(text) {
                Some(network) => networks.push(network),
                None => self.problems.push(Problem::at(
                    format!("{key}[{index}]"),
                    "must be a network such as 10.0.0.0/8, or an address; bits behind the prefix must be zero",
                )),
            }
        }
        networks.into()
    }

    fn origins(&mut self, key: &str, file: &[String]) -> AllowedOrigins {
        let mut origins = Vec::with_capacity(file.len());
        for (index, text) in file.iter().enumerate() {
            match text.as_str() {
                "*" => origins.push(String::new()),
                _ if is_origin(text) => origins.push(text.to_ascii_lowercase()),
                _ => self.problems.push(Problem::at(
                    format!("{key}[{index}]"),
                    "must be \"*\" or an origin such as https://app.example: scheme, host and port, nothing behind them",
                )),
            }
        }
        match origins.as_slice() {
            [] => AllowedOrigins::None,
            all if all.iter().any(String::is_empty) => AllowedOrigins::Any,
            _ => AllowedOrigins::Listed(origins.into()),
        }
    }

    fn number(&mut self, key: &str, variable: &str, file: Option<u64>, least: u64, most: u64, default: u64) -> usize {
        let value = match self.ambient.var(variable) {
            Some(text) => text.parse().ok(),
            None => Some(file.unwrap_or(default)),
        };
        match value.filter(|value| (least..=most).contains(value)).and_then(|value| usize::try_from(value).ok()) {
            Some(value) => value,
            None => {
                self.problems.push(Problem::at(key, format!("must be a whole number from {least} to {most}")));
                usize::try_from(default).unwrap_or(usize::MAX)
            }
        }
    }
}

/// Scheme, host and perhaps a port, as browsers send them.
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let Some(authority) = uri.authority() else { return false };
    let written = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
    written.eq_ignore_ascii_case(text) && !authority.as_str().contains('@')
}

/// A network, or an address, which is the network of just that address. IPv4 in IPv6 form is IPv4, as for clients.
/// Bits behind the prefix are refused: `10.1.2.3/8` may be meant as one host, and would trust 16 million.
fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) => text.parse().ok()?,
    };
    if network.trunc() != network {
        return None;
    }
    match network {
        IpNet::V6(long) => match (long.addr().to_ipv4_mapped(), long.prefix_len().checked_sub(96)) {
            (Some(short), Some(prefix)) => Ipv4Net::new(short, prefix).ok().map(IpNet::V4),
            _ => Some(network),
        },
        IpNet::V4(_) => Some(network),
    }
}

/// File shape of `log`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogFile {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,dgx_gateway=debug`. Default `info`.
    /// Environment: `DGX_GATEWAY_LOG`.
    pub level: Option<String>,
    /// `json` or `text`. Default: `text` on a terminal, else `json`.
    pub format: Option<LogFormat>,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Checked `log`.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Filter.
    pub level: String,
    /// Form; `None`: by what the output is.
    pub format: Option<LogFormat>,
}

impl LogSettings {
    pub(super) fn check(file: LogFile, ambient: &Ambient, problems: &mut Vec<Problem>) -> Self {
        let level =
            ambient.var("DGX_GATEWAY_LOG").map(str::to_owned).or(file.level).unwrap_or_else(|| "info".to_owned());
        if level.parse::<tracing_subscriber::EnvFilter>().is_err() {
            problems.push(Problem::at("log.level", "must be error, warn, info, debug, trace or a filter of these"));
        }
        Self { level, format: file.format }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusted_proxies_are_networks_or_addresses() {
        let file = ServerFile {
            trusted_proxies: ["10.0.0.0/8", "127.0.0.1", "::1", "::ffff:192.0.2.1", "::ffff:198.51.100.0/120"]
                .map(str::to_owned)
                .to_vec(),
            ..ServerFile::default()
        };
        let mut problems = Vec::new();
        let server = Server::check(file, &Ambient::default(), &mut problems);
        assert_eq!(problems, []);
        let networks: Vec<String> = server.trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "127.0.0.1/32", "::1/128", "192.0.2.1/32", "198.51.100.0/24"]);
    }

    #[test]
    fn allowed_origins_are_origins_or_all() {
        let check = |origins: &[&str]| {
            let cors = CorsFile { allowed_origins: origins.iter().map(|origin| (*origin).to_owned()).collect() };
            let mut problems = Vec::new();
            let file = ServerFile { cors, ..ServerFile::default() };
            (Server::check(file, &Ambient::default(), &mut problems).allowed_origins, problems.len())
        };
        let listed =
            |origins: &[&str]| AllowedOrigins::Listed(origins.iter().map(|origin| (*origin).to_owned()).collect());
        assert_eq!(check(&[]), (AllowedOrigins::None, 0));
        assert_eq!(check(&["https://a.example", "*"]), (AllowedOrigins::Any, 0));
        assert_eq!(check(&["https://A.example:8443"]), (listed(&["https://a.example:8443"]), 0));
        for bad in ["a.example", "https://a.example/", "https://a.example/x", "https://u@a.example", "", "null"] {
            assert_eq!(check(&[bad, "http://[::1]:5173"]), (listed(&["http://[::1]:5173"]), 1), "{bad}");
        }
    }

    #[test]
    fn uploads_have_a_limit_and_a_budget_that_holds_one() {
        let check = |max_upload_bytes, max_spooled_bytes, variable: &[(&str, &str)]| {
            let file = ServerFile { max_upload_bytes, max_spooled_bytes, ..ServerFile::default() };
            let owned = variable.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let (ambient, mut problems) = (Ambient::new(owned), Vec::new());
            let server = Server::check(file, &ambient, &mut problems);
            let keys: Vec<String> = problems.into_iter().map(|problem| problem.key).collect();
            (server.max_upload_bytes, server.max_spooled_bytes, keys)
        };
        assert_eq!(check(None, None, &[]), (104_857_600, 10 << 30, vec![]));
        assert_eq!(check(Some(1024), Some(1024), &[]), (1024, 1024, vec![]));
        assert_eq!(check(None, None, &[("MAX_UPLOAD_BYTES", "2048")]).0, 2048);
        let upload = vec!["server.max_upload_bytes".to_owned()];
        assert_eq!(check(Some(1023), None, &[]).2, upload);
        assert_eq!(check(Some((1 << 30) + 1), None, &[]).2, upload);
        assert_eq!(check(Some(2048), Some(2047), &[]).2, ["server.max_spooled_bytes"]);
    }

    #[test]
    fn every_bad_network_is_told() {
        let file = ServerFile {
            trusted_proxies: ["10.1.2.3/8", "10.0.0.0/8", "localhost", "10.0.0.0/33", ""].map(str::to_owned).to_vec(),
            ..ServerFile::default()
        };
        let mut problems = Vec::new();
        let server = Server::check(file, &Ambient::default(), &mut problems);
        let keys: Vec<&str> = problems.iter().map(|problem| &*problem.key).collect();
        assert_eq!(keys, [0, 2, 3, 4].map(|index| format!("server.trusted_proxies[{index}]")));
        assert_eq!(server.trusted_proxies.len(), 1);
    }
}
