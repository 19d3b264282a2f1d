//! A running gateway, and what a test asks it.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use dgx_gateway_testkit::client::{H2Client, RawClient};
use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, BACKEND_KEY, BEARER, Client, Metrics, PROMPT, Setup, soon, until};

/// A running gateway; it is killed, and its log looked through for secrets, when dropped.
pub(crate) struct Gateway {
    pub(super) child: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(super) dir: Arc<TempDir>,
    pub(super) setup: Setup,
    /// Processes that took over, one after the other.
    pub(super) successors: Vec<u32>,
}

impl Gateway {
    pub(super) async fn healthy(mut self) -> Self {
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
