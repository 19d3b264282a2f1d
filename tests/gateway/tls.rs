//! TLS: towards clients (`server.tls`) and towards upstreams (`https`).

mod files;
mod life;
mod speaks;
mod strangers;
mod swap;
mod upstreams;

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::tls::{Authority, HERE, Issued, files};
use crate::harness::{Caller, Client, Gateway, Setup, Stage, chunk_of_stream, finish_of_stream};

const UPSTREAM: &str = "upstream-name-of-m";

fn chat(stream: bool) -> String {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

/// An authority, a certificate of it for this machine, and the directory in which that stands.
struct Keys {
    authority: Authority,
    issued: Issued,
    dir: TempDir,
}

impl Keys {
    fn new() -> Self {
        Self::of(Authority::new())
    }

    fn of(authority: Authority) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issued = authority.issue(&HERE);
        issued.write(dir.path());
        Self { authority, issued, dir }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn setup(&self, setup: Setup) -> Setup {
        setup.server("tls", files(self.dir()))
    }

    /// A gateway that speaks TLS, before an upstream that the test plays.
    async fn started(&self) -> (Gateway, Stage) {
        let stage = Stage::open().await;
        (self.setup(Setup::with_upstream(stage.addr)).start().await, stage)
    }
}

/// A stream whose first chunk has come.
async fn streaming(mut client: Client, stage: &mut Stage) -> (Client, Caller) {
    client.send_chat(chat(true)).await;
    let mut caller = stage.caller().await;
    caller.begin_stream().await;
    caller.chunk(chunk_of_stream(UPSTREAM, "first")).await;
    client.read_head().await;
    assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", "first"));
    (client, caller)
}

/// Another chunk of a stream arrives.
async fn goes_on(client: &mut Client, caller: &mut Caller, word: &str) {
    caller.chunk(chunk_of_stream(UPSTREAM, word)).await;
    assert_eq!(client.piece().await.unwrap(), chunk_of_stream("m", word));
}

/// The end of a stream arrives.
async fn ends(client: &mut Client, caller: &mut Caller) {
    caller.chunk(finish_of_stream(UPSTREAM) + "data: [DONE]\n\n").await;
    caller.end_chunks().await;
    assert_eq!(client.piece().await.unwrap(), finish_of_stream("m") + "data: [DONE]\n\n");
    assert_eq!(client.piece().await, None);
}
