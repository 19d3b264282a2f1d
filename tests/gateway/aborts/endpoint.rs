//! The endpoints, and a client of them over either version of HTTP.

use std::net::SocketAddr;

use dgx_gateway_testkit::client::{H2Client, Reason};
use http::{Method, Request};

use super::Phase;
use crate::harness::{BEARER, Client, Exchange2, chunk_of_stream, soon};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Messages,
    Responses,
    Speech,
    Transcription,
}

use Endpoint::{Chat, Completions, Embeddings, Messages, Responses, Speech, Transcription};

pub(crate) const ALL: [Endpoint; 7] = [Chat, Completions, Embeddings, Messages, Responses, Speech, Transcription];

impl Endpoint {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Chat => "/v1/chat/completions",
            Completions => "/v1/completions",
            Embeddings => "/v1/embeddings",
            Messages => "/v1/messages",
            Responses => "/v1/responses",
            Speech => "/v1/audio/speech",
            Transcription => "/v1/audio/transcriptions",
        }
    }

    fn content_type(self) -> &'static str {
        if self == Transcription { "multipart/form-data; boundary=b" } else { "application/json" }
    }

    pub(crate) fn body(self, stream: bool) -> String {
        match self {
            Chat => format!(r#"{{"model":"m","stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#),
            Completions => format!(r#"{{"model":"m","stream":{stream},"prompt":"hi"}}"#),
            Embeddings => r#"{"model":"vectors","input":"hi"}"#.to_owned(),
            Messages => format!(
                r#"{{"model":"m","stream":{stream},"max_tokens":9,"messages":[{{"role":"user","content":"hi"}}]}}"#
            ),
            Responses => format!(r#"{{"model":"m","stream":{stream},"input":"hi"}}"#),
            Speech => r#"{"model":"voice","input":"hi","voice":"alloy"}"#.to_owned(),
            Transcription => form(stream),
        }
    }

    /// Whether it has the phase at all.
    pub(crate) fn has(self, phase: Phase) -> bool {
        match phase {
            Phase::FirstToken | Phase::HeadOfStream | Phase::Stream => self != Embeddings,
            Phase::Whole => self != Speech, // its answer is always passed on as it comes
            Phase::Early | Phase::Head | Phase::Heartbeat | Phase::Upload => true,
        }
    }

    /// A form whose model has come goes on to the upstream while the recording arrives.
    pub(crate) fn reaches_its_upstream_inside_its_body(self) -> bool {
        self == Transcription
    }

    pub(crate) fn stream_head(self) -> String {
        let content_type = if self == Speech { "audio/wav" } else { "text/event-stream" };
        format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n")
    }

    /// What a stream begins with that means something.
    pub(crate) fn first_event(self) -> String {
        let named = |name: &str, rest: &str| format!("event: {name}\ndata: {{\"type\":\"{name}\",{rest}}}\n\n");
        match self {
            Chat | Embeddings => chunk_of_stream("x", "hi"),
            Completions => {
                "data: {\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"x\",\"choices\":[{\"index\":0,\"text\":\"hi\",\"logprobs\":null,\"finish_reason\":null}]}\n\n".to_owned()
            }
            Messages => named("content_block_delta", r#""index":0,"delta":{"type":"text_delta","text":"hi"}"#),
            Responses => named(
                "response.output_text.delta",
                r#""sequence_number":4,"item_id":"i","output_index":0,"content_index":0,"delta":"hi""#,
            ),
            Speech => "some sound".to_owned(),
            Transcription => named("transcript.text.delta", r#""delta":"hi""#),
        }
    }
}

/// A form with more than what is kept in memory before its upstream is chosen.
fn form(stream: bool) -> String {
    let part =
        |name: &str, value: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    let file =
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n";
    [&part("model", "ear"), &part("stream", &stream.to_string()), file, &"x".repeat(20_000), "\r\n--b--\r\n"].concat()
}

/// A client that will leave.
pub(crate) enum Visitor {
    One(Box<Client>),
    Two(H2Client, Option<Exchange2>, SocketAddr),
}

impl Visitor {
    pub(crate) async fn connect(addr: SocketAddr, http2: bool) -> Self {
        if http2 {
            Self::Two(H2Client::connect(addr).await.unwrap(), None, addr)
        } else {
            Self::One(Box::new(Client::connect(addr).await))
        }
    }

    /// Sends the first so many bytes of a body that is declared in full.
    pub(crate) async fn send(&mut self, endpoint: &Endpoint, body: &str, bytes: usize) {
        let (sent, length) = (&body.as_bytes()[..bytes], body.len().to_string());
        match self {
            Self::One(client) => {
                let headers = [("content-type", endpoint.content_type()), ("content-length", length.as_str())];
                client.head(&Method::POST, endpoint.path(), &headers).await;
                client.raw.send(sent).await.unwrap();
            }
            Self::Two(client, exchange, addr) => {
                let head = Request::post(format!("http://{addr}{}", endpoint.path()))
                    .header("authorization", format!("Bearer {BEARER}"))
                    .header("content-type", endpoint.content_type())
                    .header("content-length", length);
                let mut begun = client.start(head.body(()).unwrap()).await.unwrap();
                begun.send(sent.to_vec().into()).await.unwrap();
                if bytes == body.len() {
                    begun.end().unwrap();
                }
                *exchange = Some(begun);
            }
        }
    }

    pub(crate) async fn read_head(&mut self) {
        match self {
            Self::One(client) => assert_eq!(client.read_head().await.0, 200),
            Self::Two(_, exchange, _) => {
                let head = soon("the head", exchange.as_mut().unwrap().read_head()).await.unwrap();
                assert_eq!(head.status(), 200);
            }
        }
    }

    pub(crate) async fn read_piece(&mut self) {
        let piece = match self {
            Self::One(client) => client.raw.read_piece().await.unwrap(),
            Self::Two(_, exchange, _) => exchange.as_mut().unwrap().read_piece().await.unwrap(),
        };
        assert!(piece.is_some_and(|piece| !piece.is_empty()));
    }

    /// Reads whatever comes, to the end of the answer; whether it was 200.
    pub(crate) async fn read_all(&mut self) -> bool {
        match self {
            Self::One(client) => client.raw.read_response().await.is_ok_and(|answer| answer.status == 200),
            Self::Two(_, exchange, _) => {
                exchange.as_mut().unwrap().read_response().await.is_ok_and(|answer| answer.status == 200)
            }
        }
    }

    /// Ends the connection, or over HTTP/2 takes the stream back.
    pub(crate) fn leave(self) {
        if let Self::Two(client, Some(mut exchange), _) = self {
            exchange.reset(Reason::CANCEL);
            // the reset leaves before the connection does
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                drop((client, exchange));
            });
        }
    }

    /// Leaves with a reset of the connection.
    pub(crate) fn abort(self) {
        match self {
            Self::One(client) => client.raw.abort().unwrap(),
            Self::Two(client, exchange, _) => drop((client, exchange)),
        }
    }
}
