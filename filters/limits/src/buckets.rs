//! The buckets of one kind: in this process, or shared with others where a store is configured.
//!
//! Without a store everything is decided at once, from memory. With one, a take is a step of the store; while that
//! is down, the rule of the route holds: refuse, or go on with this process's share of the limit.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dgx_gateway_filter::{ErrorCode, FilterError};

use crate::bucket::{BucketMap, Key, Rate, Refused, Taken, Ticket};
use crate::config::StoreFailure;
use crate::events::LimitKind;
use crate::shared::{SharedStore, Step};

/// When to come back while the store is down and the route is closed.
const AFTER_STORE_FAILURE: Duration = Duration::from_secs(5);

/// Buckets of one kind.
pub(crate) struct Buckets {
    pub(crate) kind: LimitKind,
    pub(crate) local: BucketMap,
    pub(crate) shared: Option<Arc<SharedStore>>,
}

/// Whose bucket, how large it is, and what holds without the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) key: Key,
    pub(crate) rate: Rate,
    pub(crate) now: Instant,
    pub(crate) without_store: StoreFailure,
    /// Processes among which a limit is divided without the store.
    pub(crate) replicas: u32,
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// The bucket holds too little.
    Empty(Refused),
    /// The store is down, and the route is closed then.
    StoreDown,
}

/// A result that is there, or one to wait for.
pub(crate) enum Answer<'a, T> {
    Now(Result<T, NotTaken>),
    Later(Pin<Box<dyn Future<Output = Result<T, NotTaken>> + Send + 'a>>),
}

/// Units that were reserved, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reservation {
    key: Key,
    pub(crate) rate: Rate,
    pub(crate) ticket: Ticket,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Local,
    Shared,
}

impl Buckets {
    /// Takes one unit.
    pub(crate) fn take(&self, asked: Asked) -> Answer<'_, Taken> {
        let Some(shared) = &self.shared else { return Answer::Now(self.take_here(asked.rate, &asked)) };
        if !shared.is_up() {
            return Answer::Now(self.take_without_store(&asked));
        }
        Answer::Later(Box::pin(async move {
            match shared.run(self.kind, asked.key, Step::Take(1), asked.rate).await {
                Ok(result) => result.map(|grant| grant.taken).map_err(NotTaken::Empty),
                Err(_) => self.take_without_store(&asked),
            }
        }))
    }

    fn take_without_store(&self, asked: &Asked) -> Result<Taken, NotTaken> {
        self.take_here(asked.rate_without_store()?, asked)
    }

    fn take_here(&self, rate: Rate, asked: &Asked) -> Result<Taken, NotTaken> {
        self.local.try_take(&asked.key, 1, rate, asked.now).map_err(NotTaken::Empty)
    }

    /// Reserves units, at most a bucket full; [`Self::settle`] has to follow.
    pub(crate) fn reserve(&self, units: u64, asked: Asked) -> Answer<'_, (Taken, Reservation)> {
        let Some(shared) = &self.shared else { return Answer::Now(self.reserve_here(units, asked.rate, &asked)) };
        if !shared.is_up() {
            return Answer::Now(self.reserve_without_store(units, &asked));
        }
        Answer::Later(Box::pin(async move {
            let (key, rate) = (asked.key, asked.rate);
            match shared.run(self.kind, key, Step::Reserve(units.min(rate.capacity())), rate).await {
                Ok(Ok(grant)) => {
                    Ok((grant.taken, Reservation { key, rate, ticket: grant.ticket, place: Place::Shared }))
                }
                Ok(Err(refused)) => Err(NotTaken::Empty(refused)),
                Err(_) => self.reserve_without_store(units, &asked),
            }
        }))
    }

    fn reserve_without_store(&self, units: u64, asked: &Asked) -> Result<(Taken, Reservation), NotTaken> {
        self.reserve_here(units, asked.rate_without_store()?, asked)
    }

    fn reserve_here(&self, units: u64, rate: Rate, asked: &Asked) -> Result<(Taken, Reservation), NotTaken> {
        let key = asked.key;
        let reserved = self.local.try_reserve(&key, units.min(rate.capacity()), rate, asked.now);
        let (taken, ticket) = reserved.map_err(NotTaken::Empty)?;
        Ok((taken, Reservation { key, rate, ticket, place: Place::Local }))
    }

    /// Ends a reservation of which `used` units were used, where it was made. Does not wait.
    pub(crate) fn settle(&self, reservation: &Reservation, used: u64, now: Instant) {
        let Reservation { key, rate, ticket, place } = reservation;
        match (place, &self.shared) {
            (Place::Shared, Some(shared)) => shared.settle(self.kind, key, *ticket, used, *rate),
            _ => self.local.settle(key, *ticket, used, *rate, now),
        }
    }
}

impl Asked {
    fn rate_without_store(&self) -> Result<Rate, NotTaken> {
        match self.without_store {
            StoreFailure::Closed => Err(NotTaken::StoreDown),
            StoreFailure::LocalShare => Ok(self.rate.share(self.replicas)),
        }
    }
}

/// The answer on a route that is closed while the store is down.
pub(crate) fn store_is_down() -> FilterError {
    let message = "Limits cannot be checked at the moment. Wait for the time in Retry-After.";
    FilterError::policy(ErrorCode::ServiceOverloaded, message).retry_after(AFTER_STORE_FAILURE)
}
