//! Many streams at one time through the gateway, beside the same streams straight from the mock upstream.
//!
//! `load [STREAMS [SECONDS [MILLISECONDS]]]`, by default 2000 streams for 20 s with 20 ms between events. It starts
//! `dgx-gateway` and `mock-upstream` from the folder above its own, or `GATEWAY_BIN` and `MOCK_BIN`. See benches/README.md.

mod stream;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use self::stream::{Seen, run_one};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The bearer of the streams.
const BEARER: &str = "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecf";
/// Within this time all streams have begun.
const RAMP: Duration = Duration::from_secs(2);

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}

/// Starts a program; gives the address in its first line.
fn start(command: &mut Command) -> Result<(Process, SocketAddr)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let words = line.split_whitespace().map(|word| word.trim_start_matches("http://"));
    let address = words.filter_map(|word| word.parse().ok()).next();
    let process = Process(child);
    Ok((process, address.ok_or_else(|| format!("it does not say where it listens: {line}"))?))
}

fn program(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    Ok(here.parent().and_then(Path::parent).ok_or("no folder")?.join(name))
}

fn gateway(mock: SocketAddr, dir: &Path) -> Result<(Process, SocketAddr)> {
    fs::create_dir(dir.join("conf"))?;
    let backend = json!({"id": "mock", "label": "mock", "kind": "openai", "domain": "local", "base_url": format!("http://{mock}/v1")});
    let settings = json!({"server": {"threads": 2}, "backends": [backend]});
    let route = json!([{"backend": "mock", "model": "bench-stream"}]);
    let models = json!({"version": 1, "models": [{"alias": "bench-stream", "route": route}]});
    fs::write(dir.join("conf/gateway.yaml"), settings.to_string())?;
    fs::write(dir.join("conf/models.yaml"), models.to_string())?;
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    start(
        Command::new(program("GATEWAY_BIN", "dgx-gateway")?)
            .current_dir(dir)
            .stderr(fs::File::create(dir.join("log"))?)
            .env("DGX_GATEWAY_LISTEN", free()?.to_string())
            .env("DGX_GATEWAY_ADMIN_LISTEN", free()?.to_string())
            .env("DGX_GATEWAY_DATA_DIR", dir.join("data"))
            .env("DGX_GATEWAY_DEFAULT_USER_ID", "load")
            .env("RUST_API_BEARER", BEARER)
            .env("RATE_LIMIT_PER_SECOND", "100000")
            .env("RATE_LIMIT_BURST", "100000"),
    )
}

/// KiB of memory, and seconds of processor time, of a process.
fn usage(pid: u32) -> Result<(u64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let times = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = times.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok((resident.ok_or("no VmRSS")?, ticks / 100.0))
}

/// What a run came to.
struct Run {
    seen: Vec<Seen>,
    failed: usize,
    took: Duration,
    /// KiB before, with all streams open, and after; seconds of processor time.
    memory: [u64; 3],
    processor: f64,
}

async fn run(addr: SocketAddr, pid: u32, streams: usize, events: usize, seconds: u64) -> Result<Run> {
    let (before, cpu) = usage(pid)?;
    let began = Instant::now();
    let pause = RAMP / u32::try_from(streams.max(1))?;
    let tasks: Vec<_> = (0..streams)
        .map(|n| {
            let wait = pause * u32::try_from(n).unwrap_or(0);
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                run_one(addr, BEARER, events).await
            })
        })
        .collect();
    tokio::time::sleep(RAMP + Duration::from_secs(seconds) / 2).await;
    let (open, _) = usage(pid)?;
    let (mut seen, mut failed) = (Vec::new(), 0);
    for task in tasks {
        match task.await? {
            Ok(one) => seen.push(one),
            Err(_) => failed += 1,
        }
    }
    let took = began.elapsed();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (after, spent) = usage(pid)?;
    Ok(Run { seen, failed, took, memory: [before, open, after], processor: spent - cpu })
}

fn milliseconds(mut all: Vec<Duration>, part: f64) -> f64 {
    all.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let place = ((all.len().saturating_sub(1)) as f64 * part) as usize;
    all.get(place).map_or(0.0, |one| one.as_secs_f64() * 1000.0)
}

#[tokio::main]
async fn main() -> Result<()> {
    let numbers: Vec<usize> =
        std::env::args().skip(1).map(|text| text.parse()).collect::<std::result::Result<_, _>>()?;
    let number = |place: usize, default: usize| numbers.get(place).copied().unwrap_or(default);
    let (streams, seconds, between) = (number(0, 2000), number(1, 20), number(2, 20));
    let events = seconds * 1000 / between.max(1);
    let (mock, upstream) = start(Command::new(program("MOCK_BIN", "mock-upstream")?).args([
        "--events",
        &events.to_string(),
        "--between-ms",
        &between.to_string(),
    ]))?;
    let dir = tempfile::tempdir()?;
    let (gateway, front) = gateway(upstream, dir.path())?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut out = std::io::stdout();
    writeln!(out, "{streams} streams of {events} events, {between} ms between them")?;
    writeln!(
        out,
        "| way | complete | failed | took s | first event p50, p99 ms | stall p50, p99, longest ms | RSS before, open, after MiB | KiB per stream | CPU us per event |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    for (way, addr, pid) in [("direct", upstream, mock.0.id()), ("gateway", front, gateway.0.id())] {
        let run = run(addr, pid, streams, events, seconds as u64).await?;
        let firsts: Vec<Duration> = run.seen.iter().map(|one| one.first).collect();
        let stalls: Vec<Duration> = run.seen.iter().map(|one| one.longest_gap).collect();
        let [before, open, after] = run.memory;
        #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
        let (mib, count) = (|kib: u64| kib as f64 / 1024.0, run.seen.len().max(1) as f64);
        #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
        let (each, per_event) =
            (open.saturating_sub(before) as f64 / streams as f64, run.processor * 1e6 / (count * events as f64));
        writeln!(
            out,
            "| {way} | {} | {} | {:.1} | {:.1}, {:.1} | {:.0}, {:.0}, {:.0} | {:.1}, {:.1}, {:.1} | {each:.1} | {per_event:.1} |",
            run.seen.len(),
            run.failed,
            run.took.as_secs_f64(),
            milliseconds(firsts.clone(), 0.5),
            milliseconds(firsts, 0.99),
            milliseconds(stalls.clone(), 0.5),
            milliseconds(stalls.clone(), 0.99),
            milliseconds(stalls, 1.0),
            mib(before),
            mib(open),
            mib(after),
        )?;
    }
    Ok(())
}
