//! Keeps an answer alive of which nothing comes: its head leaves early, then comments follow.

use std::time::Duration;

use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;
use tokio::time::Instant;

/// What keeps the answer of an attempt alive.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Alive {
    /// A head, and when it leaves if none has.
    early_head: Option<(Instant, Box<ResponseHeader>)>,
    /// What is sent whenever nothing has been sent for so long.
    heartbeat: Option<(Duration, Bytes)>,
    /// When something was sent last, once the head has left.
    last_sent: Option<Instant>,
}

impl Alive {
    /// Nothing has left yet.
    pub(in crate::proxy) fn new(
        early_head: Option<(std::time::Instant, Box<ResponseHeader>)>,
        heartbeat: Option<(Duration, Bytes)>,
    ) -> Self {
        let early_head = early_head.map(|(at, head)| (Instant::from_std(at), head));
        Self { early_head, heartbeat, last_sent: None }
    }

    /// The next attempt begins; what has left stays so.
    pub(super) fn replace(&mut self, next: Self) {
        *self = Self { last_sent: self.last_sent, ..next };
    }

    /// Whether the head has left.
    pub(super) fn head_has_left(&self) -> bool {
        self.last_sent.is_some()
    }

    /// Something of the answer leaves; true when it is the first.
    pub(super) fn sent(&mut self) -> bool {
        self.early_head = None; // a stream is long, and this one is of no more use
        self.last_sent.replace(Instant::now()).is_none()
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.last_sent {
            None => self.early_head.as_ref().map(|(at, _)| *at),
            Some(sent) => self.heartbeat.as_ref().map(|(every, _)| sent + *every),
        }
    }

    /// What has to be sent by now.
    pub(super) fn due(&mut self) -> Option<HttpTask> {
        let now = Instant::now();
        self.next().filter(|at| *at <= now)?;
        let task = match self.last_sent {
            None => self.early_head.take().map(|(_, head)| HttpTask::Header(head, false)),
            Some(_) => self.heartbeat.as_ref().map(|(_, bytes)| HttpTask::Body(Some(bytes.clone()), false)),
        };
        self.last_sent = Some(now);
        task
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(15);

    fn alive() -> Alive {
        let head = Box::new(ResponseHeader::build(200, None).unwrap());
        Alive {
            early_head: Some((Instant::now() + 2 * EVERY, head)),
            heartbeat: Some((EVERY, Bytes::from_static(b": x\n\n"))),
            last_sent: None,
        }
    }

    fn due(alive: &mut Alive) -> &'static str {
        match alive.due() {
            None => "nothing",
            Some(HttpTask::Header(..)) => "head",
            Some(HttpTask::Body(..)) => "heartbeat",
            Some(_) => "other",
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_head_leaves_at_its_time_and_heartbeats_follow() {
        let mut alive = alive();
        tokio::time::advance(2 * EVERY - Duration::from_millis(1)).await;
        assert_eq!(due(&mut alive), "nothing");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((due(&mut alive), due(&mut alive)), ("head", "nothing"));
        for _ in 0..3 {
            tokio::time::advance(EVERY - Duration::from_millis(1)).await;
            assert_eq!(due(&mut alive), "nothing");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(due(&mut alive), "heartbeat");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_sent_puts_the_heartbeat_off() {
        let mut alive = alive();
        assert!(alive.sent() && !alive.sent());
        tokio::time::advance(EVERY - Duration::from_millis(1)).await;
        alive.sent();
        tokio::time::advance(EVERY - Duration::from_millis(1)).await;
        assert_eq!(due(&mut alive), "nothing");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(due(&mut alive), "heartbeat");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_has_left_does_not_leave_again_at_the_next_attempt() {
        let mut first = alive();
        first.sent();
        first.replace(alive());
        tokio::time::advance(3 * EVERY).await;
        assert_eq!(due(&mut first), "heartbeat");
    }
}
