//! Starts the built gateway with files of its own, and checks on every answer what must always hold.

mod answer;
mod client;
mod metrics;
mod stage;
pub(crate) mod tls;

use std::io::{BufRead, BufReader, Read, Seek};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use dgx_gateway_testkit::client::{H2Client, RawClient};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use self::answer::{Answer, check_error};
pub(crate) use self::client::{Client, Exchange2, document, fill, post_h2};
pub(crate) use self::metrics::Metrics;
pub(crate) use self::stage::{Caller, Stage, chunk_of_stream, finish_of_stream};

/// The bearer of the caller.
pub(crate) const BEARER: &str = "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecf";
/// The credential of the backends.
pub(crate) const BACKEND_KEY: &str = "key-of-the-backend-0123456789";
/// Words of prompts that must never reach a log.
pub(crate) const PROMPT: &str = "a-prompt-that-stays-private";
/// The longest that anything takes which happens at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How often a condition of the process is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Starts until a free port stays free.
const STARTS: usize = 5;

/// What a gateway is started with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    server: Value,
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
    fn spawn(&self, dir: &Path) -> Option<(Child, SocketAddr, SocketAddr)> {
        let (addr, admin) = free_addrs();
        Self::started(self.command(dir, addr, admin), dir).map(|child| (child, addr, admin))
    }

    /// A process that listens; `None` when a port was taken meanwhile.
    fn started(mut command: Command, dir: &Path) -> Option<Child> {
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
    fn command(&self, dir: &Path, addr: SocketAddr, admin: SocketAddr) -> Command {
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

/// A running gateway; it is killed, and its log looked through for secrets, when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    dir: Arc<TempDir>,
    setup: Setup,
    /// Processes that took over, one after the other.
    successors: Vec<u32>,
}

impl Gateway {
    async fn healthy(mut self) -> Self {
        until("the gateway is healthy", async || {
            assert!(self.child.try_wait().unwrap().is_none(), "the gateway ended: {}", self.log());
            // with TLS, whom to trust is the test's to know
            let addr = if self.setup.server.get("tls").is_some() { self.admin } else { self.addr };
            let Ok(mut client) = RawClient::connect(addr).await else { return false };
            client.request(&http::Method::GET, "/healthz", &[], b"").await.is_ok()
                && client.read_response().await.is_ok_and(|response| response.status == 200)
        })
        .await;
        self
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// A new HTTP/1.1 connection.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// A new HTTP/2 connection.
    pub(crate) async fn h2(&self) -> H2Client {
        H2Client::connect(self.addr).await.unwrap()
    }

    /// Posts a chat request on a connection of its own.
    pub(crate) async fn chat(&self, body: impl AsRef<[u8]>) -> Answer {
        self.client().await.chat(body).await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::scrape(self.admin).await
    }

    /// Waits until no request runs.
    pub(crate) async fn idle(&self) {
        until("no request runs", async || self.metrics().await.sum("dgx_gateway_http_in_flight") == 0.0).await;
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.process().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// The process that accepts.
    pub(crate) fn process(&self) -> u32 {
        self.successors.last().copied().unwrap_or(self.child.id())
    }

    /// Hands over to another process.
    pub(crate) async fn hand_over(&mut self) {
        let before = self.successors.len();
        self.signal("USR2");
        until("it hands over", async || {
            let log = self.log();
            let lines = log.lines().filter(|line| line.contains("handed over; draining"));
            let ids = lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["process.id"].as_u64().unwrap());
            self.successors = ids.map(|id| u32::try_from(id).unwrap()).collect();
            self.successors.len() > before
        })
        .await;
    }

    /// Whether processes that it handed over to run.
    pub(crate) fn successors_run(&self) -> usize {
        let runs = |id: &&u32| {
            // one that has ended may not have been taken note of by its parent
            std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        };
        self.successors.iter().filter(runs).count()
    }

    /// Kills the process without warning, and starts another one on what it left behind.
    pub(crate) async fn killed_and_started_again(&mut self) {
        self.killed();
        self.started_again().await;
    }

    /// Kills the process without warning.
    pub(crate) fn killed(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts another process on what one that has ended left behind.
    pub(crate) async fn started_again(&mut self) {
        let (setup, dir) = (self.setup.clone(), self.dir.path().to_owned());
        let started = tokio::task::spawn_blocking(move || (0..STARTS).find_map(|_| setup.spawn(&dir)));
        (self.child, self.addr, self.admin) = started.await.unwrap().expect("the gateway starts again");
    }

    /// Runs the program beside it, with its variables; gives the exit code.
    pub(crate) async fn run(&self, arguments: &'static [&'static str]) -> Option<i32> {
        let mut command = self.setup.command(self.dir.path(), self.addr, self.admin);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        tokio::task::spawn_blocking(move || command.status().unwrap().code()).await.unwrap()
    }

    /// Runs the program beside it, in its directory and with its variables; gives what it said.
    pub(crate) async fn ran(&self, arguments: &[&str]) -> Ran {
        self.setup.run_in(self.dir.path(), arguments).await
    }

    /// Runs the program beside it, with further variables; gives the exit code, and what it said.
    pub(crate) async fn said(
        &self,
        arguments: &'static [&'static str],
        variables: &'static [(&'static str, &'static str)],
    ) -> (Option<i32>, String) {
        let mut command = self.setup.command(self.dir.path(), self.addr, self.admin);
        command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    /// A file of its working directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a file in place as editors and tools do: written beside it, then renamed.
    pub(crate) fn put(&self, name: &str, content: &str) {
        let path = self.file(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let beside = path.with_extension("new");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(&beside, &path).unwrap();
    }

    /// Asks for a reload; gives status and body.
    pub(crate) async fn reload(&self) -> (u16, Value) {
        let mut client = RawClient::connect(self.admin).await.unwrap();
        client.request(&http::Method::POST, "/reload", &[], b"").await.unwrap();
        let response = soon("the reload", client.read_response()).await.unwrap();
        (response.status.as_u16(), serde_json::from_slice(&response.body).unwrap())
    }

    /// A new HTTP/1.1 connection of somebody with this secret.
    pub(crate) async fn client_with(&self, secret: &str) -> Client {
        Client::connect_with(self.addr, secret).await
    }

    /// Threads of the process.
    pub(crate) fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }

    /// Starts a second process on the same files: one that takes over, as far as it knows, so that both go on.
    pub(crate) async fn beside(&self) -> Self {
        let (setup, dir) = (self.setup.clone(), Arc::clone(&self.dir));
        let started = tokio::task::spawn_blocking(move || {
            let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
            let [addr, admin] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
            let [public, administration] = listeners.map(OwnedFd::from);
            let ready = OwnedFd::from(UnixDatagram::unbound().unwrap());
            let mappings = [public, administration, ready].into_iter().zip(3..);
            let mut command = setup.command(dir.path(), addr, admin);
            command
                .env("LISTEN_FDS", "3")
                .env("LISTEN_FDNAMES", "public:admin:ready")
                .fd_mappings(mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect())
                .unwrap();
            Setup::started(command, dir.path()).map(|child| ((child, addr, admin), Arc::clone(&dir), setup.clone()))
        });
        let ((child, addr, admin), dir, setup) = started.await.unwrap().expect("a second gateway starts");
        Self { child, addr, admin, dir, setup, successors: vec![] }.healthy().await
    }

    /// A file of its data directory.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    /// Writes one of its configuration files anew.
    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.dir.path().join(name), content).unwrap();
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// A number of the process's memory, in bytes.
    pub(crate) fn memory(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Sockets that it holds open.
    pub(crate) fn sockets(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|path| path.to_string_lossy().starts_with("socket:"))
            .count()
    }

    /// File descriptors that it holds.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Time of the processor that it has used, in ticks of 10 ms.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Lets it have so many file descriptors at most.
    pub(crate) fn limit_files(&self, most: usize) {
        let limit = format!("--nofile={most}:");
        let set = Command::new("prlimit").args(["--pid", &self.child.id().to_string(), &limit]).status().unwrap();
        assert!(set.success());
    }

    /// Lets the peak of its memory begin again from now.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// What stands in the audit log at the moment; nothing without a directory.
    pub(crate) fn audit_text(&self) -> String {
        std::fs::read_to_string(self.data("audit/audit.jsonl")).unwrap_or_default()
    }

    /// Records of a kind in the audit log at the moment.
    pub(crate) fn audit(&self, kind: &str) -> Vec<Value> {
        let text = self.audit_text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole); // it may be written just now
        let records = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.filter(|record| record["type"] == kind).collect()
    }

    /// The records of a kind, once there are so many.
    pub(crate) async fn audited(&self, kind: &str, count: usize) -> Vec<Value> {
        until("the audit log holds the records", async || self.audit(kind).len() >= count).await;
        let records = self.audit(kind);
        assert_eq!(records.len(), count, "{records:?}");
        records
    }

    /// Files in its data directory that it holds open without a name.
    pub(crate) fn open_data_files(&self) -> usize {
        let data = self.dir.path().join("data");
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .filter(|path| path.starts_with(&data) && path.to_string_lossy().ends_with("(deleted)"))
            .count()
    }

    /// Puts a file in the place of its data directory: nothing can be written there any more.
    pub(crate) fn lose_data_dir(&self) {
        let data = self.dir.path().join("data");
        if data.exists() {
            std::fs::remove_dir_all(&data).unwrap();
        }
        std::fs::write(&data, "").unwrap();
    }

    /// Whether the process still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        for process in &self.successors {
            // most of them have ended
            drop(Command::new("kill").args(["-KILL", &process.to_string()]).stderr(Stdio::null()).status());
        }
        let log = self.log();
        if std::thread::panicking() {
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            println!("the log ends with:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            return;
        }
        killed.unwrap();
        for secret in [BEARER, BACKEND_KEY, PROMPT] {
            assert!(!log.contains(secret), "{secret} stands in the log");
            assert!(!self.audit_text().contains(secret), "{secret} stands in the audit log");
        }
        assert!(!log.contains("panicked"), "the gateway panicked: {log}");
    }
}

/// Looks again and again until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !so().await {
            tokio::time::sleep(LOOK).await;
        }
    });
    assert!(waited.await.is_ok(), "waited too long until {what}");
}

/// The result of something that happens at once.
pub(crate) async fn soon<T>(what: &str, result: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, result).await.unwrap_or_else(|_| panic!("waited too long: {what}"))
}
