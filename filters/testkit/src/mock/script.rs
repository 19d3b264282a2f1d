//! Which request gets which behaviour.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Method};

use super::behaviour::Behaviour;

/// Request header that names a behaviour, for clients that reach the mock directly.
pub const BEHAVIOUR_HEADER: &str = "x-mock-behaviour";

type Chooser = Arc<dyn Fn(&str) -> Option<Behaviour> + Send + Sync>;

/// The plan of a mock.
#[derive(Clone)]
pub struct Script {
    queue: VecDeque<Behaviour>,
    chooser: Option<Chooser>,
    default: Behaviour,
    recording: bool,
    looks_apart: bool,
}

impl Default for Script {
    /// Answers every request correctly.
    fn default() -> Self {
        Self::always(Behaviour::default())
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("queue", &self.queue).field("default", &self.default).finish_non_exhaustive()
    }
}

impl Script {
    /// The same for every request.
    #[must_use]
    pub fn always(behaviour: Behaviour) -> Self {
        Self { queue: VecDeque::new(), chooser: None, default: behaviour, recording: true, looks_apart: false }
    }

    /// One after the other, then correct answers.
    #[must_use]
    pub fn queue(behaviours: impl IntoIterator<Item = Behaviour>) -> Self {
        Self { queue: behaviours.into_iter().collect(), ..Self::default() }
    }

    /// What follows when nothing else was chosen.
    #[must_use]
    pub fn then(mut self, behaviour: Behaviour) -> Self {
        self.default = behaviour;
        self
    }

    /// Lets the header [`BEHAVIOUR_HEADER`], else the `model` of the body, choose when the queue is empty.
    #[must_use]
    pub fn choose_by_name(mut self, chooser: impl Fn(&str) -> Option<Behaviour> + Send + Sync + 'static) -> Self {
        self.chooser = Some(Arc::new(chooser));
        self
    }

    /// Keeps nothing of the requests, for long runs.
    #[must_use]
    pub fn without_recording(mut self) -> Self {
        self.recording = false;
        self
    }

    /// Answers `GET …/models` correctly and leaves it out of the record and the queue: a gateway looks at its
    /// backends whenever it likes.
    #[must_use]
    pub fn with_looks_apart(mut self) -> Self {
        self.looks_apart = true;
        self
    }

    pub(super) fn is_recording(&self) -> bool {
        self.recording
    }
}

/// A script being played.
#[derive(Debug)]
pub(super) struct Director {
    queue: Mutex<VecDeque<Behaviour>>,
    script: Script,
}

impl Director {
    pub(super) fn new(mut script: Script) -> Self {
        Self { queue: Mutex::new(std::mem::take(&mut script.queue)), script }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Behaviour>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, behaviour: Behaviour) {
        self.queue().push_back(behaviour);
    }

    /// Whether the connection that was just accepted is to be reset.
    pub(super) fn resets_connection(&self) -> bool {
        let mut queue = self.queue();
        if matches!(queue.front(), Some(Behaviour::ResetOnAccept)) {
            queue.pop_front();
            return true;
        }
        queue.is_empty() && matches!(self.script.default, Behaviour::ResetOnAccept)
    }

    /// Whether a request is a look at the models that is kept apart.
    pub(super) fn is_look(&self, method: &Method, path: &str) -> bool {
        self.script.looks_apart && *method == Method::GET && path.ends_with("/models")
    }

    /// What is known once the head is there.
    pub(super) fn at_head(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Behaviour> {
        if self.is_look(method, path) {
            return Some(Behaviour::default());
        }
        if let Some(behaviour) = self.queue().pop_front() {
            return Some(behaviour);
        }
        match &self.script.chooser {
            // The body may choose as well.
            Some(chooser) => chooser(headers.get(BEHAVIOUR_HEADER)?.to_str().ok()?),
            None => Some(self.script.default.clone()),
        }
    }

    /// What is left to choose once the model is known.
    pub(super) fn at_body(&self, model: &str) -> Behaviour {
        let chosen = self.script.chooser.as_ref().and_then(|chooser| chooser(model));
        chosen.unwrap_or_else(|| self.script.default.clone())
    }
}
