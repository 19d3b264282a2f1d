//! Responses on their way to the client: passed on, or held back until the core has decided.

use pingora::protocols::http::HttpTask;
use pingora::{Error, Result};

use super::session::Replay;
use super::{CUT, Ending, HELD_BACK, lock};
use crate::proxy::context::wait_for;

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
                    return self.write(tasks).await;
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// Writes to the client. If the end of the answer is among it, that waits for what it has to wait for.
    async fn write(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let Some(Ending { at, pending }) = lock(&self.control).ending.take() else {
            self.written += tasks.iter().map(length).sum::<usize>();
            return self.genuine.ready().await?.response_duplex_vec(tasks).await;
        };
        let mut tasks = tasks;
        if let Some(pending) = pending {
            let (before, end) = split(tasks, at.saturating_sub(self.written));
            if !before.is_empty() {
                self.genuine.ready().await?.response_duplex_vec(before).await?;
            }
            wait_for(pending).await;
            tasks = end;
        }
        let done = self.genuine.ready().await?.response_duplex_vec(tasks).await?;
        lock(&self.control).end_left = true;
        Ok(done)
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
        let done = self.write(out).await?;
        // the upstream may stay silent after its error: do not wait for another piece
        if lock(&self.control).cut { Error::e_explain(CUT, "the answer ended with an error") } else { Ok(done) }
    }
}

/// Bytes of the body in a task.
fn length(task: &HttpTask) -> usize {
    match task {
        HttpTask::Body(Some(part), _) => part.len(),
        _ => 0,
    }
}

/// What stands before the first `before` bytes of the body have passed, and the rest.
fn split(tasks: Vec<HttpTask>, mut before: usize) -> (Vec<HttpTask>, Vec<HttpTask>) {
    let (mut first, mut rest) = (Vec::with_capacity(tasks.len()), Vec::with_capacity(2));
    for task in tasks {
        match task {
            task if !rest.is_empty() => rest.push(task),
            HttpTask::Body(Some(mut part), end) => {
                let behind = part.split_off(part.len().min(before));
                before -= part.len();
                if !part.is_empty() {
                    first.push(HttpTask::Body(Some(part), false));
                }
                if end || !behind.is_empty() {
                    rest.push(HttpTask::Body(Some(behind).filter(|behind| !behind.is_empty()), end));
                }
            }
            task if task.is_end() => rest.push(task),
            task => first.push(task),
        }
    }
    (first, rest)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn said(tasks: Vec<HttpTask>) -> Vec<String> {
        let one = |task| match task {
            HttpTask::Body(part, end) => {
                let part = part.map(|part: Bytes| String::from_utf8(part.to_vec()).unwrap());
                format!("{}{}", part.as_deref().unwrap_or("-"), if end { "." } else { "" })
            }
            task => task.type_str().to_owned(),
        };
        tasks.into_iter().map(one).collect()
    }

    fn body(part: &'static str, end: bool) -> HttpTask {
        HttpTask::Body(Some(Bytes::from_static(part.as_bytes())), end)
    }

    /// Tasks, where their end begins, what stands before it, and the rest.
    type Case = (Vec<HttpTask>, usize, &'static [&'static str], &'static [&'static str]);

    #[test]
    fn only_the_end_of_an_answer_waits() {
        let cases: [Case; 7] = [
            (vec![body("ab", false), body("cd", true)], 3, &["ab", "c"], &["d."]),
            (vec![body("ab", false), body("cd", true)], 4, &["ab", "cd"], &["-."]),
            (vec![body("ab", false), body("cd", true)], 2, &["ab"], &["cd."]),
            (vec![body("ab", false), HttpTask::Body(None, true)], 1, &["a"], &["b", "-."]),
            (vec![body("ab", false), HttpTask::Done], 2, &["ab"], &["Done"]),
            (vec![body("ab", false), body("c", false), HttpTask::Done], 1, &["a"], &["b", "c", "Done"]),
            (vec![body("ab", false)], 0, &[], &["ab"]),
        ];
        for (tasks, before, first, rest) in cases {
            let (one, other) = split(tasks, before);
            assert_eq!(
                (said(one), said(other)),
                (first.iter().map(ToString::to_string).collect(), rest.iter().map(ToString::to_string).collect())
            );
        }
    }
}
