//! What is watched while nothing passes: the client, the time limits, signs of life, room at the upstream.

use bytes::Bytes;
use pingora::{Error, Result};

use super::session::{Replay, took};
use super::source::Source;
use super::{ANSWERED, lock};

impl Replay {
    /// Waits until the upstream has taken so much that another piece can follow; watches the client meanwhile, unless
    /// it has more of its body to send, and the time limits.
    pub(super) async fn until_room(&mut self) -> Result<()> {
        let Some(flow) = self.flow.clone() else { return Ok(()) };
        while !flow.has_room() {
            if self.ended {
                return Error::e_explain(ANSWERED, "the answer came before the end of the request");
            }
            let watches = self.client_is_done();
            let session = self.genuine.ready().await?;
            let timer = self.timing.timer(self.alive.next());
            let timer = async {
                match timer {
                    Some(timer) => timer.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = flow.moved() => {}
                read = session.read_body_or_idle(true), if watches => drop(read?),
                () = timer => self.timer_fired()?,
            }
        }
        Ok(())
    }

    /// Whether the client can be watched for its leaving: not while it has more of its body to send.
    pub(super) fn client_is_done(&self) -> bool {
        match &self.source {
            Source::Held(_) => true,
            Source::Spooled(spooled) => spooled.is_complete(),
        }
    }

    /// Looks at the client once, without waiting.
    pub(super) async fn client_left(&mut self) -> Option<Box<Error>> {
        let session = match self.genuine.ready().await {
            Ok(session) => session,
            Err(error) => return Some(error),
        };
        let mut idle = std::pin::pin!(session.read_body_or_idle(true));
        match futures_util::poll!(&mut idle) {
            std::task::Poll::Ready(Err(error)) => Some(error),
            _ => None,
        }
    }

    /// Waits for the client to leave. While the next attempt has to wait, a body that streams is read on instead: an
    /// empty piece says that something came.
    pub(super) async fn watch_client(&mut self) -> Result<Option<Bytes>> {
        let waiting = self.begin_to_wait();
        loop {
            let Self { genuine, source, control, timing, alive, .. } = self;
            let session = genuine.ready().await?;
            let watch = async {
                match source {
                    Source::Spooled(spooled) if waiting && !spooled.is_complete() => {
                        let read = spooled.read_ahead(session).await;
                        took(control, spooled, read).map(|()| Some(Bytes::new()))
                    }
                    _ => session.read_body_or_idle(true).await,
                }
            };
            let Some(timer) = timing.timer(alive.next()) else { return watch.await };
            tokio::select! {
                biased;
                read = watch => return read,
                () = timer.as_mut() => {}
            }
            self.timer_fired()?;
        }
    }

    /// Whether the next attempt has to wait; then the limits of the last one mean nothing any more.
    fn begin_to_wait(&mut self) -> bool {
        let mut control = lock(&self.control);
        if control.waiting {
            self.timing.restart(None);
            if let Some(alive) = control.waiting_alive.take() {
                self.alive.replace(alive);
            }
        }
        control.waiting
    }

    /// A time limit has passed, or a sign of life is due.
    fn timer_fired(&mut self) -> Result<()> {
        self.timing.fired()?;
        let head_has_left = self.alive.head_has_left();
        if let Some(task) = self.alive.due() {
            if !head_has_left {
                lock(&self.control).head_left_early = true;
            }
            self.genuine.write(vec![task]);
        }
        Ok(())
    }
}
