//! The level of the process: what environment variables say.

use super::cascade::{Cascade, Level, Process};
use super::keys::TenantKey;
use super::kind::{Input, Kind};
use super::value::Value;
use crate::ambient::Ambient;
use crate::filter::Problem;

const MAX_TOOL_ITERATIONS: &str = "MAX_TOOL_ITERATIONS";

/// Bounds of the process that ranges depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most model calls of one tool loop: `MAX_TOOL_ITERATIONS`, 1 to 50, default 10.
    pub max_tool_iterations: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_tool_iterations: 10 }
    }
}

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Bounds of the process.
    pub limits: Limits,
    /// Keys that have a value there.
    pub level: Level,
}

impl Environment {
    /// Reads all variables. What is wrong has the value of the product, and is a problem.
    #[must_use]
    pub fn read(ambient: &Ambient) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut read = |name: &str, kind: Kind, limits: Limits| {
            let value = kind.read(Input::Bare(ambient.var(name)?.to_owned()), limits);
            let wrong = value.as_ref().err().into_iter().flatten();
            problems.extend(wrong.map(|wrong| match wrong.item {
                Some(index) => Problem::at(format!("{name}[{index}]"), wrong.message.clone()),
                None => Problem::at(name, wrong.message.clone()),
            }));
            value.ok()
        };
        let mut limits = Limits::default();
        if let Some(Value::Integer(most)) = read(MAX_TOOL_ITERATIONS, Kind::Integer(1, 50), limits) {
            limits.max_tool_iterations = most;
        }
        let mut level = Level::new();
        for key in TenantKey::ALL {
            let about = key.about();
            if let Some(value) = about.variable().and_then(|name| read(&name, about.kind, limits)) {
                level.insert(*key, value);
            }
        }
        let mut environment = Self { limits, level };
        environment.check_overlap(&mut problems);
        (environment, problems)
    }

    fn check_overlap(&mut self, problems: &mut Vec<Problem>) {
        let process = Process::of(self);
        let cascade = Cascade { db: &Level::new(), yaml: &Level::new(), process: &process };
        if let Err(wrong) = cascade.check_overlap() {
            let variable = TenantKey::RagChunkOverlap.about().variable().unwrap_or_default();
            problems.push(Problem::at(variable, wrong.message));
            self.level.remove(&TenantKey::RagChunkOverlap);
            self.level.remove(&TenantKey::RagChunkTokens);
        }
    }
}
