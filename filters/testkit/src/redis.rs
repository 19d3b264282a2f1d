//! A real Redis server for one test: on loopback, without files, ending with the test whatever becomes of it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// The longest that a start may take on a busy machine.
const START: Duration = Duration::from_secs(20);
/// How often a start is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Runs the server until standard input ends, which it does with the test process, too. Says its process id.
const WATCHED: &str =
    r#"redis-server "$@" >/dev/null & echo $!; cat >/dev/null; kill -9 $!; wait $! 2>/dev/null; exit 0"#;

/// A Redis server. It is killed when dropped.
pub struct RedisServer {
    addr: SocketAddr,
    running: Option<Running>,
}

struct Running {
    watcher: Child,
    pid: String,
}

impl RedisServer {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// `redis-server` is not installed, or does not start.
    pub async fn start() -> io::Result<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = free.local_addr()?;
        drop(free);
        let mut server = Self { addr, running: None };
        server.start_again().await?;
        Ok(server)
    }

    /// Starts it on its port, empty.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_again(&mut self) -> io::Result<()> {
        let port = self.addr.port().to_string();
        let mut watcher = Command::new("sh")
            .args(["-c", WATCHED, "sh", "--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = watcher.stdout.take().ok_or_else(|| io::Error::other("no standard output"))?;
        let mut pid = String::new();
        BufReader::new(said).read_line(&mut pid).await?;
        self.running = Some(Running { watcher, pid: pid.trim().to_owned() });
        let answers = async {
            while !self.answers().await {
                sleep(LOOK).await;
            }
        };
        timeout(START, answers).await.map_err(|_| io::Error::other("redis-server does not start; is it installed?"))
    }

    async fn answers(&self) -> bool {
        let ping = async {
            let mut stream = TcpStream::connect(self.addr).await?;
            stream.write_all(b"PING\r\n").await?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await?;
            io::Result::Ok(&answer == b"+PONG")
        };
        ping.await.unwrap_or(false)
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}/", self.addr)
    }

    /// Kills it; connections break.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub async fn kill(&mut self) -> io::Result<()> {
        if let Some(mut running) = self.running.take() {
            self.signal_process(&running.pid, "CONT").await?;
            drop(running.watcher.stdin.take());
            running.watcher.wait().await?;
        }
        Ok(())
    }

    /// Makes it hang: it accepts and never answers.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub async fn hang(&self) -> io::Result<()> {
        self.signal("STOP").await
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub async fn go_on(&self) -> io::Result<()> {
        self.signal("CONT").await
    }

    async fn signal(&self, name: &str) -> io::Result<()> {
        match &self.running {
            Some(running) => self.signal_process(&running.pid, name).await,
            None => Err(io::Error::other("it does not run")),
        }
    }

    async fn signal_process(&self, pid: &str, name: &str) -> io::Result<()> {
        let sent: ExitStatus = Command::new("kill").arg(format!("-{name}")).arg(pid).status().await?;
        if sent.success() { Ok(()) } else { Err(io::Error::other("the signal was not sent")) }
    }
}
