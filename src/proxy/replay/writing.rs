//! Responses on their way to the client: passed on, or held back until the core has decided.

use pingora::protocols::http::HttpTask;
use pingora::{Error, Result};

use super::session::Replay;
use super::{CUT, HELD_BACK, lock};

impl Replay {
    /// Keeps a response that is held back; at its end lets go what the core made of it.
    pub(super) async fn write_held(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        for task in tasks {
            match task {
                HttpTask::Failed(error) => return Err(error),
                task if task.is_end() => {
                    let release = lock(&self.control).release.take();
                    let Some((head, body)) = release else {
                        return Error::e_explain(HELD_BACK, "held response is complete");
                    };
                    let mut tasks = vec![HttpTask::Body(Some(body), true)];
                    if !self.alive.head_has_left() {
                        tasks.insert(0, HttpTask::Header(head, false));
                    }
                    self.leaving();
                    return self.genuine.ready().await?.response_duplex_vec(tasks).await;
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// Something of the answer of this attempt leaves: from here on no other attempt can take its place.
    fn leaving(&mut self) {
        self.passed = true;
        self.timing.begin();
        if self.alive.sent() {
            self.timing.rearm(); // a heartbeat may be due before the limit for which the timer was set
        } else {
            lock(&self.control).head_left_early = false;
        }
    }

    /// Passes a response on. Its head leaves with the first bytes of its body.
    pub(super) async fn write_through(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut out = Vec::with_capacity(tasks.len() + 1);
        for task in tasks {
            match task {
                // interim heads are built by the upstream, not by our allow-list, and nobody asked for them
                HttpTask::Header(head, _) if head.status.is_informational() => {}
                HttpTask::Header(_, false) if self.alive.head_has_left() => {} // an early one has
                HttpTask::Header(head, false) => self.pending_head = Some(head),
                HttpTask::Body(None, false) => {}
                HttpTask::Body(Some(part), false) if part.is_empty() => {}
                // nothing of the answer has left: say the failure properly
                HttpTask::Failed(error) if !self.passed && out.is_empty() => return Err(error),
                task => {
                    if let Some(head) = self.pending_head.take() {
                        out.push(HttpTask::Header(head, false));
                    }
                    out.push(task);
                }
            }
        }
        if out.is_empty() {
            return Ok(false);
        }
        self.leaving();
        self.source.forget(); // the answer has begun, so the body will not be sent again
        let done = self.genuine.ready().await?.response_duplex_vec(out).await?;
        // the upstream may stay silent after its error: do not wait for another piece
        if lock(&self.control).cut { Error::e_explain(CUT, "the answer ended with an error") } else { Ok(done) }
    }
}
