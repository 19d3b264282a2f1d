//! The mock upstream as a program. The `model` of a request names what happens to it; `/v1/models` lists them.
//!
//! It prints `listening on 127.0.0.1:PORT` and serves until it is ended.

use std::io::Write;
use std::time::Duration;

use clap::Parser;
use dgx_gateway_testkit::mock::{MockUpstream, Named, Script};

/// A fault-injecting, OpenAI-compatible upstream on loopback.
#[derive(Parser)]
#[command(name = "mock-upstream")]
struct Arguments {
    /// Port of 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Events of a `bench-stream` answer.
    #[arg(long, default_value_t = 64)]
    events: usize,
    /// Milliseconds before the first of them.
    #[arg(long, default_value_t = 0)]
    first_ms: u64,
    /// Milliseconds between two of them.
    #[arg(long, default_value_t = 0)]
    between_ms: u64,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let named = Named::new(
        arguments.events,
        Duration::from_millis(arguments.first_ms),
        Duration::from_millis(arguments.between_ms),
    );
    let script = Script::default().choose_by_name(move |name| named.behaviour(name)).without_recording();
    let mock = MockUpstream::start_on(arguments.port, script).await?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on {}", mock.addr())?;
    out.flush()?;
    std::future::pending().await
}
