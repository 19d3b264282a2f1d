//! Hand-over to another binary without a connection that is refused: it is started with the listening sockets, and when
//! it says that it is ready, this process drains.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping, FdMappingCollision};

use crate::sockets::{NAMES, READY, Sockets};

/// How long the new process may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at whether it is still there.
const LOOK: Duration = Duration::from_millis(50);
/// First descriptor that is handed over (`sd_listen_fds`).
const FIRST: i32 = 3;
/// What the new process says.
const WORD: &[u8] = b"READY";

/// Why this process goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// It ended before it was ready.
    #[error("it ended before it was ready: {0}")]
    Ended(ExitStatus),
    /// Descriptors cannot be handed over.
    #[error("the sockets cannot be handed over: {0}")]
    Sockets(#[from] FdMappingCollision),
    /// It cannot be started, or not be waited for.
    #[error("{0}")]
    Start(#[from] io::Error),
    /// It took too long.
    #[error("it was not ready within 30 s")]
    TooLate,
}

/// Starts the process that comes after this one.
#[derive(Debug)]
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
    public: TcpListener,
    admin: TcpListener,
}

impl Successor {
    /// Keeps the sockets open for the next process. The path of the program is remembered now: what stands there when
    /// the time comes is started.
    ///
    /// # Errors
    /// The sockets cannot be shared, or the path of the program is not known.
    pub fn new(sockets: &Sockets) -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            arguments: std::env::args_os().skip(1).collect(),
            public: sockets.public.try_clone()?,
            admin: sockets.admin.try_clone()?,
        })
    }

    /// Starts it and waits until it is ready; gives its process id. One that does not come up is ended.
    ///
    /// # Errors
    /// It is not there; nothing has changed.
    ///
    /// # Cancel safety
    /// When dropped, the process that was started is ended.
    pub async fn start(&self) -> Result<u32, UpgradeError> {
        let (ours, theirs) = UnixDatagram::pair()?;
        ours.set_nonblocking(true)?;
        let ours = tokio::net::UnixDatagram::from_std(ours)?;
        let mut started = Started(Some(self.spawn(theirs)?));
        let mut word = [0; 16];
        let ready = async {
            loop {
                let length = ours.recv(&mut word).await?;
                if word.get(..length) == Some(WORD) {
                    return Ok::<_, UpgradeError>(());
                }
            }
        };
        tokio::select! {
            ready = ready => ready?,
            status = started.ended() => return Err(UpgradeError::Ended(status?)),
            () = tokio::time::sleep(PATIENCE) => return Err(UpgradeError::TooLate),
        }
        started.0.take().map(|child| child.id()).ok_or(UpgradeError::TooLate)
    }

    fn spawn(&self, ready: UnixDatagram) -> Result<Child, UpgradeError> {
        let handed = [self.public.try_clone()?.into(), self.admin.try_clone()?.into(), OwnedFd::from(ready)];
        let mappings = handed.into_iter().zip(FIRST..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env("LISTEN_FDS", "3")
            .env("LISTEN_FDNAMES", format!("{}:{READY}", NAMES.join(":")))
            .env_remove("LISTEN_PID")
            .env_remove("WATCHDOG_PID") // it becomes the process that is watched
            .fd_mappings(mappings.collect())?;
        Ok(command.spawn()?)
    }
}

/// Tells the process before that this one is ready.
pub fn tell_ready(before: &UnixDatagram) {
    if let Err(error) = before.send(WORD) {
        tracing::warn!(%error, "the process before does not hear that this one is ready");
    }
}

/// A process that is ended when it is given up.
struct Started(Option<Child>);

impl Started {
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.as_mut().and_then(|child| child.try_wait().transpose()) {
                return status;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        // it may have ended by itself
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            tracing::warn!(%error, "the new process cannot be ended");
        }
    }
}
