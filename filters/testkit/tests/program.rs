//! The program, started as other test suites start it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use dgx_gateway_testkit::client::RawClient;

/// Ends the program with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn says_where_it_listens_and_follows_the_model() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mock-upstream"));
    let mut child = Running(command.args(["--port", "0", "--events", "2"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr: SocketAddr = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();

    let mut client = RawClient::connect(addr).await.unwrap();
    for (model, status, pieces) in [("status-529", 529, 1), ("ok", 200, 7), ("bench-stream", 200, 3), ("bench", 200, 1)]
    {
        let body = format!(r#"{{"model":"{model}","stream":true,"messages":[]}}"#);
        client.post_json("/v1/chat/completions", &[], &body).await.unwrap();
        let response = client.read_response().await.unwrap();
        assert_eq!((response.status.as_u16(), response.pieces.len()), (status, pieces), "{model}");
    }
    client.post_json("/v1/chat/completions", &[], r#"{"model":"reset"}"#).await.unwrap();
    assert!(client.read_response().await.unwrap_err().is_reset());
}
