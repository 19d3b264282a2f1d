//! What a gateway is started with, and the start.

use std::io::{BufRead, BufReader, Read, Seek};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{BACKEND_KEY, BEARER, Gateway, LOOK, SOON};

/// Starts until a free port stays free.
pub(super) const STARTS: usize = 5;

/// What a gateway is started with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(super) server: Value,
    stream: Value,
    routes: Vec<Value>,
    backends: Vec<Value>,
    models: Vec<Value>,
    catalog: Value,
    /// Further top-level keys.
    more: serde_json::Map<String, Value>,
    /// Tokens file.
    tokens: Option<String>,
    /// Price table.
    prices: Option<Value>,
    /// Variables; an empty one is not set.
    variables: Vec<(&'static str, String)>,
    log: &'static str,
}

/// A backend of a setup: its id is also its label.
pub(crate) fn backend(id: &str, addr: SocketAddr) -> Value {
    json!({"id": id, "label": id, "kind": "openai", "domain": "local", "base_url": format!("http://{addr}/v1"),
        "api_key": BACKEND_KEY})
}

/// A chat model; the route names backends and their names of it.
pub(crate) fn model(alias: &str, route: &[(&str, &str)]) -> Value {
    let route: Vec<Value> = route.iter().map(|(backend, model)| json!({"backend": backend, "model": model})).collect();
    json!({"alias": alias, "route": route})
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self {
            server: json!({"threads": 2, "drain_grace_seconds": 0}),
            stream: json!({}),
            routes: vec![],
            backends: vec![],
            models: vec![],
            catalog: json!({"version": 1}),
            more: serde_json::Map::new(),
            tokens: None,
            prices: None,
            variables: vec![],
            log: "debug",
        }
    }

    /// One backend `first` with one model `m`, known there as `upstream-name-of-m`.
    pub(crate) fn with_upstream(addr: SocketAddr) -> Self {
        Self::new().backend(backend("first", addr)).model(model("m", &[("first", "upstream-name-of-m")]))
    }

    /// Two backends `first` and `second` behind the model `m`.
    pub(crate) fn with_fallback(first: SocketAddr, second: SocketAddr) -> Self {
        Self::new()
            .backend(backend("first", first))
            .backend(backend("second", second))
            .model(model("m", &[("first", "name-at-the-first"), ("second", "name-at-the-second-one")]))
    }

    pub(crate) fn server(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.server[key] = value.into();
        self
    }

    pub(crate) fn stream(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.stream[key] = value.into();
        self
    }

    /// A top-level key of a plug-in.
    pub(crate) fn section(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.more.insert(key.to_owned(), value.into());
        self
    }

    /// The content of `auth/tokens.yaml`.
    pub(crate) fn tokens(mut self, tokens: Value) -> Self {
        self.tokens = Some(tokens.to_string());
        self
    }

    /// The content of `conf/pricing.yaml`.
    pub(crate) fn prices(mut self, prices: Value) -> Self {
        self.prices = Some(prices);
        self
    }

    /// Sets a variable, or with an empty value removes one that is set otherwise.
    pub(crate) fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    pub(crate) fn route(mut self, route: Value) -> Self {
        self.routes.push(route);
        self
    }

    pub(crate) fn backend(mut self, backend: Value) -> Self {
        self.backends.push(backend);
        self
    }

    pub(crate) fn model(mut self, model: Value) -> Self {
        self.models.push(model);
        self
    }

    /// A further key of the models file.
    pub(crate) fn catalog(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.catalog[key] = value.into();
        self
    }

    /// The tokens file as it is written.
    pub(crate) fn tokens_yaml(mut self, yaml: &str) -> Self {
        self.tokens = Some(yaml.to_owned());
        self
    }

    /// What is logged instead of `debug`.
    pub(crate) fn log(mut self, level: &'static str) -> Self {
        self.log = level;
        self
    }

    /// This model alone.
    pub(crate) fn replace_models(mut self, model: Value) -> Self {
        self.models = vec![model];
        self
    }

    pub(crate) async fn start(self) -> Gateway {
        let setup = self;
        tokio::task::spawn_blocking(move || {
            (0..STARTS).find_map(|_| setup.try_start()).expect("the gateway starts on some free port")
        })
        .await
        .unwrap()
        .healthy()
        .await
    }

    fn try_start(&self) -> Option<Gateway> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("conf")).unwrap();
        let write = |name: &str, content: &Value| std::fs::write(dir.path().join(name), content.to_string()).unwrap();
        let mut gateway =
            json!({"server": self.server, "stream": self.stream, "routes": self.routes, "backends": self.backends});
        gateway.as_object_mut().unwrap().extend(self.more.clone());
        write("conf/gateway.yaml", &gateway);
        let mut catalog = self.catalog.clone();
        catalog["models"] = json!(self.models);
        write("conf/models.yaml", &catalog);
        if let Some(prices) = &self.prices {
            write("conf/pricing.yaml", prices);
        }
        if let Some(tokens) = &self.tokens {
            std::fs::create_dir(dir.path().join("auth")).unwrap();
            std::fs::write(dir.path().join("auth/tokens.yaml"), tokens).unwrap();
        }
        let (child, addr, admin) = self.spawn(dir.path())?;
        Some(Gateway { child, addr, admin, dir: Arc::new(dir), setup: self.clone(), successors: vec![] })
    }

    /// Starts on files that stand in a directory already.
    pub(crate) async fn start_on(self, dir: Arc<TempDir>) -> Gateway {
        let (setup, path) = (self.clone(), dir.path().to_owned());
        let started = tokio::task::spawn_blocking(move || (0..STARTS).find_map(|_| setup.spawn(&path)));
        let (child, addr, admin) = started.await.unwrap().expect("the gateway starts on some free port");
        Gateway { child, addr, admin, dir, setup: self, successors: vec![] }.healthy().await
    }

    /// Runs the program in a directory, with the variables of this setup, to its end.
    pub(crate) async fn run_in(&self, dir: &Path, arguments: &[&str]) -> Ran {
        let (addr, admin) = free_addrs();
        let mut said = tempfile::tempfile().unwrap();
        let mut command = self.command(dir, addr, admin);
        command.args(arguments).stdin(Stdio::null());
        let outputs = [(); 2].map(|()| said.try_clone().unwrap());
        let [stdout, stderr] = outputs;
        let mut running = Running(command.stdout(stdout).stderr(stderr).spawn().unwrap());
        let mut code = None;
        let end = tokio::time::Instant::now() + SOON;
        while code.is_none() && tokio::time::Instant::now() < end {
            tokio::time::sleep(LOOK).await;
            code = running.0.try_wait().unwrap().map(|status| status.code());
        }
        let mut text = String::new();
        said.rewind().unwrap();
        said.read_to_string(&mut text).unwrap();
        assert!(code.is_some(), "waited too long until the program ends: {text}");
        Ran { code: code.flatten(), said: text }
    }

    /// Starts a process on what stands in a directory; `None` when a port was taken meanwhile.
    pub(super) fn spawn(&self, dir: &Path) -> Option<(Child, SocketAddr, SocketAddr)> {
        let (addr, admin) = free_addrs();
        Self::started(self.command(dir, addr, admin), dir).map(|child| (child, addr, admin))
    }

    /// A process that listens; `None` when a port was taken meanwhile.
    pub(super) fn started(mut command: Command, dir: &Path) -> Option<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said.contains("listens on") {
            return Some(child);
        }
        child.wait().unwrap();
        let log = std::fs::read_to_string(dir.join("log")).unwrap();
        assert!(log.contains("cannot be bound"), "the gateway does not start: {log}");
        None
    }

    /// The program with the variables of this setup.
    pub(super) fn command(&self, dir: &Path, addr: SocketAddr, admin: SocketAddr) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dgx-gateway"));
        command
            .current_dir(dir)
            .env_clear()
            .env("DGX_GATEWAY_LISTEN", addr.to_string())
            .env("DGX_GATEWAY_ADMIN_LISTEN", admin.to_string())
            .env("DGX_GATEWAY_DATA_DIR", dir.join("data"))
            .env("DGX_GATEWAY_DEFAULT_USER_ID", "alice")
            .env("DGX_GATEWAY_LOG", self.log)
            .env("DGX_GATEWAY_STREAM_COST_EVENT", "false") // most tests are about what upstreams say
            .env("RUST_API_BEARER", BEARER)
            .env("RATE_LIMIT_PER_SECOND", "1000")
            .env("RATE_LIMIT_BURST", "100000")
            .envs(self.variables.iter().map(|(name, value)| (*name, value)));
        command
    }
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill()); // most of them have ended
        drop(self.0.wait());
    }
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

/// Two different addresses that were free a moment ago.
fn free_addrs() -> (SocketAddr, SocketAddr) {
    let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    (listeners[0].local_addr().unwrap(), listeners[1].local_addr().unwrap())
}
