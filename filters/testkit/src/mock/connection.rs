//! A connection from its first byte: reset it, or find out what it speaks.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::{Shared, http1, http2};

/// The first bytes of an HTTP/2 connection; no HTTP/1.1 method begins like this.
const PREFACE_START: &[u8] = b"PRI";

/// Wait for more when only one or two bytes of the first line are there.
const PEEK_AGAIN: Duration = Duration::from_millis(1);

pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _open = shared.log.connection();
    if shared.director.resets_connection() {
        reset(stream);
        return;
    }
    // A socket that refuses the option is gone, which the first read will show.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    if speaks_http2(&stream).await {
        http2::serve(stream, &shared).await;
    } else {
        http1::serve(stream, &shared).await;
    }
}

/// Closes with a reset instead of an orderly end.
pub(super) fn reset(stream: TcpStream) {
    if stream.set_zero_linger().is_ok() {
        drop(stream);
    }
}

async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut start = [0; PREFACE_START.len()];
    loop {
        match stream.peek(&mut start).await {
            Ok(read) if read == start.len() => return start == PREFACE_START,
            Ok(read) if read > 0 && start.get(..read) == PREFACE_START.get(..read) => {
                tokio::time::sleep(PEEK_AGAIN).await;
            }
            _ => return false,
        }
    }
}
