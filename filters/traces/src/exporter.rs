//! The task that sends spans, and the last sending at the end of the process.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;

use crate::collector::{Collector, Trouble};
use crate::events::{Came, Events};
use crate::queue::{Batch, Queue};

/// The first wait after trouble; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long the end of the process waits for a collector.
const LAST: Duration = Duration::from_secs(5);

/// Sends what the queue holds.
pub(crate) struct Exporter {
    collector: Collector,
    queue: Arc<Queue>,
    events: Arc<Events>,
}

/// The spans are back in the queue; how long the collector asks to be left alone.
struct Later(Option<Duration>);

impl Exporter {
    pub(crate) fn new(collector: Collector, queue: Arc<Queue>, events: Arc<Events>) -> Self {
        Self { collector, queue, events }
    }

    pub(crate) fn host(&self) -> &str {
        self.collector.host()
    }

    /// Sends for the life of the process.
    ///
    /// # Cancel safety
    /// Spans that are on their way go back into the queue. The collector may have them already, and gets them again.
    pub(crate) async fn run(&self) {
        let Some(client) = self.client() else { return };
        let mut wait = FIRST_WAIT;
        loop {
            self.queue.gather().await;
            let Some(batch) = self.queue.take() else { continue };
            match self.send(&client, batch).await {
                Ok(()) => wait = FIRST_WAIT,
                Err(Later(rest)) => {
                    // up to a quarter more, so that many gateways do not come at the same moment
                    let rest = rest.unwrap_or(wait).mul_f64(1.0 + rand::random::<f64>() / 4.0);
                    wait = (wait * 2).min(LONGEST_WAIT);
                    tokio::time::sleep(rest).await;
                }
            }
        }
    }

    /// Sends what is left, as far as the collector takes it at once, and gives up the rest. Blocks.
    pub(crate) fn end(&self) {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let sent = runtime.block_on(async { tokio::time::timeout(LAST, self.send_all()).await });
                if sent.is_err() {
                    tracing::debug!("the collector did not take the last spans in time");
                }
            }
            Err(error) => tracing::debug!(%error, "the last spans cannot be sent"),
        }
        self.queue.give_up();
    }

    async fn send_all(&self) {
        let Some(client) = self.client() else { return };
        while let Some(batch) = self.queue.take() {
            if self.send(&client, batch).await.is_err() {
                return;
            }
        }
    }

    fn client(&self) -> Option<Client> {
        self.collector.client().inspect_err(|error| self.events.trouble(error, self.queue.len())).ok()
    }

    async fn send(&self, client: &Client, mut batch: Batch<'_>) -> Result<(), Later> {
        let sent = match self.collector.encode(batch.spans()) {
            Ok(body) => self.collector.send(client, body).await,
            Err(trouble) => Err(trouble),
        };
        match sent {
            Ok(refused) => {
                if refused > 0 {
                    self.events.trouble(&format_args!("the collector refused {refused} spans"), self.queue.len());
                }
                batch.done(Came::Exported, refused);
                Ok(())
            }
            Err(trouble) => {
                let rest = match trouble {
                    Trouble::Busy { rest, .. } => Some(rest),
                    Trouble::Unreachable(_) => Some(None),
                    Trouble::Encode(_) | Trouble::Refused(_) => None,
                };
                match rest {
                    Some(rest) => {
                        drop(batch);
                        self.events.trouble(&trouble, self.queue.len());
                        Err(Later(rest))
                    }
                    None => {
                        batch.done(Came::Refused, 0);
                        self.events.trouble(&trouble, self.queue.len());
                        Ok(())
                    }
                }
            }
        }
    }
}
