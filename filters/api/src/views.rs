//! What services have read, for checks that need the files of several of them.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

/// One value per type, offered by checked services. Nothing of it outlives the check.
#[derive(Default)]
pub struct Views(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl Views {
    /// Offers what was read.
    pub fn offer<T: Any + Send + Sync>(&mut self, view: T) {
        self.0.insert(TypeId::of::<T>(), Arc::new(view));
    }

    /// What some service has read; `None` when it could not, or is not part of this binary.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>()).and_then(|view| view.downcast_ref())
    }
}

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Views").field("count", &self.0.len()).finish()
    }
}
