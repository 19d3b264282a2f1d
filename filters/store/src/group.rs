//! What the pieces of work of one transaction share: the connection, and sums that are written once for all of them.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::ops::Deref;

use rusqlite::{Connection, Result};

/// Something that many pieces of work of one transaction add to, and that is written once, at its end. When the
/// transaction fails it is gone with it, since its work runs again.
pub trait Together: Default + 'static {
    /// Writes it, before the commit.
    ///
    /// # Errors
    /// What the database says; the transaction fails then.
    fn write(self, connection: &Connection) -> Result<()>;
}

/// A transaction that several pieces of work share.
pub struct Group<'a> {
    connection: &'a Connection,
    together: RefCell<Vec<Sum>>,
}

struct Sum {
    kind: TypeId,
    value: Box<dyn Any>,
    write: fn(Box<dyn Any>, &Connection) -> Result<()>,
}

impl<'a> Group<'a> {
    /// One on a connection; for tests of work without a store. The end has to be written with [`Group::end`].
    #[must_use]
    pub fn new(connection: &'a Connection) -> Self {
        Self { connection, together: RefCell::default() }
    }

    /// Adds to what is written at the end.
    pub fn add<T: Together>(&self, add: impl FnOnce(&mut T)) {
        let mut together = self.together.borrow_mut();
        let at = together.iter().position(|sum| sum.kind == TypeId::of::<T>()).unwrap_or_else(|| {
            together.push(Sum { kind: TypeId::of::<T>(), value: Box::new(T::default()), write: write::<T> });
            together.len() - 1
        });
        if let Some(value) = together.get_mut(at).and_then(|sum| sum.value.downcast_mut()) {
            add(value);
        }
    }

    /// Writes what was added.
    ///
    /// # Errors
    /// What the database says.
    pub fn end(self) -> Result<()> {
        self.together.into_inner().into_iter().try_for_each(|sum| (sum.write)(sum.value, self.connection))
    }
}

fn write<T: Together>(value: Box<dyn Any>, connection: &Connection) -> Result<()> {
    value.downcast::<T>().map_or(Ok(()), |value| value.write(connection))
}

impl Deref for Group<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl std::fmt::Debug for Group<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("together", &self.together.borrow().len()).finish_non_exhaustive()
    }
}
