//! Reading a request body: the limits, the process-wide budget of held bytes, and the rope that holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dgx_gateway_filter::facts::ContentCoding;
use dgx_gateway_filter::{Blame, ErrorCode, FilterError, Rope};
use pingora::proxy::Session;

use super::collector::Collector;
use super::decode::Decoder;
use super::replay::Beginning;
use super::spool::Spool;

/// Longest silence while a body is read. The engine's own limit covers HTTP/1.1 only; it is 60 s, and had it the
/// first word, the client would get no answer.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(55);
/// How far ahead of what has arrived a declared length is reserved.
const AHEAD: usize = 1024 * 1024;
/// When to come back after the budget of held bytes was spent.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes of bodies of one kind, requests or answers, held by the whole process.
#[derive(Debug, Default)]
pub struct HeldBytes {
    used: AtomicUsize,
}

impl HeldBytes {
    /// An empty budget.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// One request's share, empty at first. With it, all together hold at most `limit`: what is configured may change
    /// from one request to the next.
    #[must_use]
    pub fn share(self: &Arc<Self>, limit: usize) -> Held {
        Held { budget: Arc::clone(self), limit, bytes: 0 }
    }
}

/// A request's share of [`HeldBytes`]; given back on drop.
#[derive(Debug)]
pub struct Held {
    budget: Arc<HeldBytes>,
    limit: usize,
    bytes: usize,
}

impl Held {
    /// Raises the share to `total` bytes; false when the budget does not allow it.
    #[must_use]
    pub fn raise_to(&mut self, total: usize) -> bool {
        self.raise_by(total.saturating_sub(self.bytes))
    }

    /// Raises the share by `more` bytes; false when the budget does not allow it.
    #[must_use]
    pub fn raise_by(&mut self, more: usize) -> bool {
        if more == 0 {
            return true;
        }
        let fits = |used: usize| used.checked_add(more).filter(|sum| *sum <= self.limit);
        let granted = self.budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok();
        if granted {
            self.bytes += more;
        }
        granted
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Held {
    /// Gives everything back.
    pub fn give_back(&mut self) {
        self.budget.used.fetch_sub(std::mem::take(&mut self.bytes), Ordering::AcqRel);
    }
}

/// Why a body is not there.
pub(super) enum ReadError {
    /// The client left or broke the protocol.
    Broken(Box<pingora::Error>),
    /// The body is refused.
    Refused(FilterError),
}

impl From<FilterError> for ReadError {
    fn from(error: FilterError) -> Self {
        Self::Refused(error)
    }
}

/// Limits of one read.
#[derive(Clone, Copy)]
pub(super) struct BodyLimits {
    /// Largest body, after decoding.
    pub max_bytes: usize,
    /// How it is compressed.
    pub coding: Option<ContentCoding>,
    /// When it has to be complete.
    pub until: Instant,
}

/// Reads the whole body. Each piece is shown to `look` as it arrives; its error ends the reading at once.
///
/// # Cancel safety
/// None: a partly read body is lost. It runs inside the request's own task only.
pub(super) async fn read_whole(
    session: &mut Session,
    limits: BodyLimits,
    held: &mut Held,
    mut look: impl FnMut(&Session, &Bytes) -> Result<(), FilterError>,
) -> Result<Rope, ReadError> {
    let coded = limits.coding.map(Decoder::new).transpose().map_err(undecodable)?;
    // of a compressed body nobody knows how large it will be
    let declared = declared_length(session).and_then(|length| usize::try_from(length).ok());
    let declared = declared.filter(|_| coded.is_none()).unwrap_or(0);
    reserve(held, declared.min(AHEAD))?;
    say_continue(session).await?;
    let mut taken = Taken { collector: Collector::default(), declared, max_bytes: limits.max_bytes, held };
    let mut coded = coded;
    while let Some(piece) = next_piece(session, limits.until).await? {
        match &mut coded {
            None => taken.take(session, piece, &mut look)?,
            Some(decoder) => decoder.push(&piece, |step| Ok::<_, Decoding>(taken.take(session, step, &mut look)?))?,
        }
    }
    if let Some(decoder) = coded {
        decoder.finish(|step| Ok::<_, Decoding>(taken.take(session, step, &mut look)?))?;
    }
    Ok(taken.collector.finish())
}

/// What has been read of a body, within its limits.
struct Taken<'a> {
    collector: Collector,
    declared: usize,
    max_bytes: usize,
    held: &'a mut Held,
}

impl Taken<'_> {
    fn take(
        &mut self,
        session: &Session,
        piece: Bytes,
        look: &mut impl FnMut(&Session, &Bytes) -> Result<(), FilterError>,
    ) -> Result<(), FilterError> {
        let total = self.collector.len() + piece.len();
        if total > self.max_bytes {
            return Err(FilterError::too_large(self.max_bytes));
        }
        // what is declared is reserved as it arrives, a little ahead: a client that only announces holds nothing
        reserve(self.held, self.declared.min(total + AHEAD).max(total))?;
        look(session, &piece)?;
        self.collector.push(piece);
        Ok(())
    }
}

/// Why a compressed body was not decoded to its end.
enum Decoding {
    Damaged(std::io::Error),
    Refused(FilterError),
}

impl From<std::io::Error> for Decoding {
    fn from(error: std::io::Error) -> Self {
        Self::Damaged(error)
    }
}

impl From<FilterError> for Decoding {
    fn from(error: FilterError) -> Self {
        Self::Refused(error)
    }
}

impl From<Decoding> for ReadError {
    fn from(decoding: Decoding) -> Self {
        match decoding {
            Decoding::Damaged(error) => undecodable(error).into(),
            Decoding::Refused(error) => error.into(),
        }
    }
}

fn undecodable(error: std::io::Error) -> FilterError {
    FilterError::client(ErrorCode::InvalidJson, "The body is not what its Content-Encoding says.").source(error)
}

/// Reads the beginning of a body, as far as `look` wants to see it before the upstream is chosen: each piece is shown
/// to it, and it says whether it has seen enough. It is asked once before the first piece, with `None`.
///
/// # Cancel safety
/// None: a partly read body is lost. It runs inside the request's own task only.
pub(super) async fn read_beginning(
    session: &mut Session,
    limits: BodyLimits,
    mut spool: Spool,
    mut look: impl FnMut(&Session, Option<&Bytes>) -> Result<bool, FilterError>,
) -> Result<Beginning, ReadError> {
    say_continue(session).await?;
    let mut enough = look(session, None)?;
    let mut complete = session.is_body_done();
    while !enough && !complete {
        let Some(piece) = next_piece(session, limits.until).await? else {
            complete = true;
            break;
        };
        if spool.len() + piece.len() > limits.max_bytes {
            return Err(FilterError::too_large(limits.max_bytes).into());
        }
        enough = look(session, Some(&piece))?;
        spool.append(&piece).await?;
        complete = session.is_body_done();
    }
    Ok(Beginning { spool, complete, max_bytes: limits.max_bytes })
}

/// `Content-Length`, if there is one. The engine has refused malformed and repeated ones.
pub(super) fn declared_length(session: &Session) -> Option<u64> {
    session.req_header().headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(super) async fn say_continue(session: &mut Session) -> Result<(), ReadError> {
    let expects = session.req_header().headers.get(http::header::EXPECT).is_some();
    if expects && !session.is_http2() && !session.is_body_done() {
        let keepalive = session.get_keepalive();
        session.write_continue_response().await.map_err(|error| ReadError::Broken(error.into_down()))?;
        session.set_keepalive(keepalive); // the engine switches it off with the interim response
    }
    Ok(())
}

fn reserve(held: &mut Held, total: usize) -> Result<(), FilterError> {
    if held.raise_to(total) { Ok(()) } else { Err(overloaded()) }
}

async fn next_piece(session: &mut Session, until: Instant) -> Result<Option<Bytes>, ReadError> {
    let wait = READ_TIMEOUT.min(until.saturating_duration_since(Instant::now()));
    match tokio::time::timeout(wait, session.read_request_body()).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(error)) => Err(ReadError::Broken(error.into_down())),
        Err(_) => Err(too_late().into()),
    }
}

pub(super) fn too_late() -> FilterError {
    FilterError::client(ErrorCode::InvalidJson, "The body did not arrive in time.")
}

pub(super) fn overloaded() -> FilterError {
    let mut error =
        FilterError::policy(ErrorCode::ServiceOverloaded, "Too many bodies are being held. Try again soon.");
    error.blame = Blame::Gateway;
    error.retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_budget_and_are_given_back() {
        let budget = HeldBytes::new();
        let mut a = budget.share(100);
        let mut b = budget.share(100);
        assert!(a.raise_to(60) && b.raise_to(40));
        assert!(!a.raise_to(61));
        assert!(a.raise_to(10), "a share never shrinks, so this asks for nothing");
        drop(b);
        assert!(a.raise_to(100) && !a.raise_to(101));
        drop(a);
        assert_eq!(budget.used(), 0);
    }
}
