//! Host names to addresses, with a short cache, so that the engine never resolves on a worker and a resolver that is
//! down holds nobody up: one question for each name at a time, each with an end, and an old answer rather than none.

use std::collections::HashMap;
use std::future::Future;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// How long an answer of the system is used: 30 s follows a moved service soon and spares the resolver.
const FRESH: Duration = Duration::from_secs(30);
/// Longest wait for the first answer: as long as for a connection, unless a backend says otherwise.
const LONGEST: Duration = Duration::from_secs(2);
/// Longest wait for a new answer while an old one is there.
const LONGEST_WITH_OLD: Duration = Duration::from_millis(250);
/// How long the system is not asked again after it has failed. A question that nobody waits for any more keeps a
/// thread until the resolver gives up, so this bounds these threads, too.
const PAUSE: Duration = Duration::from_secs(1);
/// Most names kept. There are as many as configured upstreams; the cap is for safety.
const MOST_NAMES: usize = 4096;

type Answer = Pin<Box<dyn Future<Output = Result<SocketAddr>> + Send>>;

/// Asks whoever knows names.
trait Ask: Send + Sync {
    fn ask(&self, host: Arc<str>, port: u16) -> Answer;
}

/// The system, with its files and servers. The first address that it gives is taken.
struct System;

impl Ask for System {
    fn ask(&self, host: Arc<str>, port: u16) -> Answer {
        Box::pin(async move {
            let mut found = tokio::net::lookup_host((&*host, port)).await?;
            found.next().ok_or_else(|| Error::new(ErrorKind::NotFound, "the name has no address"))
        })
    }
}

/// What is known of a name.
#[derive(Clone, Copy, Default)]
struct Known {
    address: Option<SocketAddr>,
    /// When that was said.
    at: Option<Instant>,
    /// When the system last failed to say it.
    failed: Option<Instant>,
}

#[derive(Default)]
struct Name {
    known: Mutex<Known>,
    /// Held by the one who asks.
    asking: tokio::sync::Mutex<()>,
}

impl Name {
    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be said without a question, if anything.
    fn at_once(&self) -> Option<Result<SocketAddr>> {
        let Known { address, at, failed } = self.known();
        if let Some(address) = address
            && at.is_some_and(|at| at.elapsed() < FRESH)
        {
            return Some(Ok(address));
        }
        failed.filter(|failed| failed.elapsed() < PAUSE).map(|_| address.ok_or_else(unknown))
    }
}

fn unknown() -> Error {
    Error::new(ErrorKind::NotFound, "the name could not be resolved a moment ago")
}

/// A host and a port.
type Key = (Arc<str>, u16);

/// A small caching resolver.
pub struct Resolver {
    names: Mutex<HashMap<Key, Arc<Name>>>,
    system: Box<dyn Ask>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { names: Mutex::default(), system: Box::new(System) }
    }
}

impl Resolver {
    /// The address of a host; IP literals need no look-up. An old address is used while the system fails or hangs.
    ///
    /// # Errors
    /// The name is unknown, or nobody said anything in time.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing: the next one asks again.
    pub async fn resolve(&self, host: &Arc<str>, port: u16) -> Result<SocketAddr> {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = literal.parse() {
            return Ok(SocketAddr::new(ip, port));
        }
        let name = self.name(host, port)?;
        if let Some(said) = name.at_once() {
            return said;
        }
        let old = name.known().address;
        let _asking = match old {
            // somebody asks already, and there is something to go on with
            Some(old) => match name.asking.try_lock() {
                Ok(asking) => asking,
                Err(_) => return Ok(old),
            },
            None => timeout(LONGEST, name.asking.lock()).await.map_err(|_| late())?,
        };
        if let Some(said) = name.at_once() {
            return said;
        }
        let longest = if old.is_some() { LONGEST_WITH_OLD } else { LONGEST };
        let said = timeout(longest, self.system.ask(Arc::clone(host), port)).await.unwrap_or_else(|_| Err(late()));
        let mut known = name.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &said {
            Ok(address) => *known = Known { address: Some(*address), at: Some(Instant::now()), failed: None },
            Err(_) => known.failed = Some(Instant::now()),
        }
        said.or_else(|error| old.ok_or(error))
    }

    fn name(&self, host: &Arc<str>, port: u16) -> Result<Arc<Name>> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(host), port);
        if let Some(name) = names.get(&key) {
            return Ok(Arc::clone(name));
        }
        if names.len() >= MOST_NAMES {
            names.retain(|_, name| name.at_once().is_some());
        }
        if names.len() >= MOST_NAMES {
            return Err(Error::other("too many names"));
        }
        Ok(Arc::clone(names.entry(key).or_default()))
    }
}

fn late() -> Error {
    Error::new(ErrorKind::TimedOut, "the resolver said nothing in time")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What a resolver of a test does with a question.
    #[derive(Clone, Copy)]
    enum Does {
        Hang,
        Say(u8),
        Fail,
    }

    struct Played {
        does: Arc<Mutex<Does>>,
        asked: Arc<AtomicUsize>,
    }

    impl Ask for Played {
        fn ask(&self, _: Arc<str>, port: u16) -> Answer {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let does = *self.does.lock().unwrap();
            Box::pin(async move {
                match does {
                    Does::Hang => std::future::pending().await,
                    Does::Say(last) => Ok(SocketAddr::from(([192, 0, 2, last], port))),
                    Does::Fail => Err(Error::new(ErrorKind::NotFound, "no such name")),
                }
            })
        }
    }

    struct Stage {
        resolver: Resolver,
        does: Arc<Mutex<Does>>,
        asked: Arc<AtomicUsize>,
    }

    impl Stage {
        fn new(does: Does) -> Self {
            let (does, asked) = (Arc::new(Mutex::new(does)), Arc::new(AtomicUsize::new(0)));
            let system = Box::new(Played { does: Arc::clone(&does), asked: Arc::clone(&asked) });
            Self { resolver: Resolver { names: Mutex::default(), system }, does, asked }
        }

        fn now(&self, does: Does) {
            *self.does.lock().unwrap() = does;
        }

        /// The last part of the address, the time that it took, and the questions so far.
        async fn resolve(&self) -> (Option<u8>, Duration, usize) {
            let began = Instant::now();
            let said = self.resolver.resolve(&"gpu.internal".into(), 80).await.ok();
            let last = said.map(|address| match address {
                SocketAddr::V4(address) => address.ip().octets()[3],
                SocketAddr::V6(_) => 0,
            });
            (last, began.elapsed(), self.asked.load(Ordering::SeqCst))
        }
    }

    #[tokio::test]
    async fn literals_and_names_resolve_and_unknown_names_fail() {
        let resolver = Resolver::default();
        assert_eq!(resolver.resolve(&"[::1]".into(), 80).await.unwrap().to_string(), "[::1]:80");
        assert!(resolver.resolve(&"localhost".into(), 80).await.unwrap().ip().is_loopback());
        assert!(resolver.resolve(&"no-such-host.invalid".into(), 80).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_used_for_its_time_and_then_replaced() {
        let stage = Stage::new(Does::Say(1));
        assert_eq!(stage.resolve().await, (Some(1), Duration::ZERO, 1));
        stage.now(Does::Say(2));
        tokio::time::advance(FRESH - Duration::from_millis(1)).await;
        assert_eq!(stage.resolve().await, (Some(1), Duration::ZERO, 1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(stage.resolve().await, (Some(2), Duration::ZERO, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_holds_one_request_up_for_a_moment_and_the_old_address_serves() {
        let stage = Stage::new(Does::Say(1));
        stage.resolve().await;
        stage.now(Does::Hang);
        tokio::time::advance(FRESH).await;
        let many = futures_util::future::join_all((0..100).map(|_| stage.resolve())).await;
        assert!(many.iter().all(|(last, ..)| *last == Some(1)));
        let waited = many.iter().filter(|(_, time, _)| !time.is_zero()).count();
        assert_eq!((waited, stage.asked.load(Ordering::SeqCst)), (1, 2), "one asked, the others went on");
        assert_eq!(stage.resolve().await, (Some(1), Duration::ZERO, 2), "not asked again at once");
        tokio::time::advance(PAUSE).await;
        stage.now(Does::Say(3));
        assert_eq!(stage.resolve().await, (Some(3), Duration::ZERO, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_old_address_everybody_fails_after_one_wait() {
        let stage = Stage::new(Does::Hang);
        let many = futures_util::future::join_all((0..100).map(|_| stage.resolve())).await;
        assert!(many.iter().all(|(last, time, _)| last.is_none() && *time <= LONGEST + Duration::from_millis(2)));
        assert_eq!(stage.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_unknown_is_asked_for_once_a_second() {
        let stage = Stage::new(Does::Fail);
        for _ in 0..100 {
            assert_eq!(stage.resolve().await, (None, Duration::ZERO, 1));
        }
        stage.now(Does::Say(9));
        tokio::time::advance(PAUSE).await;
        assert_eq!(stage.resolve().await, (Some(9), Duration::ZERO, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_while_asking_leaves_the_question_to_the_next() {
        let stage = Stage::new(Does::Hang);
        let left = timeout(Duration::from_millis(10), stage.resolve()).await;
        assert!(left.is_err());
        stage.now(Does::Say(4));
        assert_eq!(stage.resolve().await, (Some(4), Duration::ZERO, 2));
    }
}
