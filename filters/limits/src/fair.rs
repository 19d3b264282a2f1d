//! Fair share: who may call a backend now, and who waits.
//!
//! | Module | Holds |
//! |---|---|
//! | `place`, `queue` | whose turn it is, pure |
//! | `slots` | the queue of the process; places that give themselves back |
//! | `turn` | the filter kind that has a request wait for its turn |
//! | `lingering` | calls whose answers are complete, until their requests end |
//! | `metrics` | what the queue tells of itself |

mod lingering;
mod metrics;
mod place;
mod queue;
mod slots;
mod turn;

use std::sync::Arc;

use dgx_gateway_filter::services::FairShare;
use dgx_gateway_filter::{BuildEnv, BuildError};

use self::metrics::{Depths, Waits};
pub use self::slots::Slots;
pub use self::turn::{Turn, TurnConfig};

/// Offers the slots of the process, those of the generation before if there was one.
pub(crate) fn provide(env: &mut BuildEnv) -> Result<(), BuildError> {
    let slots = match env.previous::<Slots>() {
        Some(slots) => slots,
        None => {
            let slots = Arc::new(Slots::new(Arc::clone(&env.clock), Waits::register(&env.metrics)?));
            Depths::register(&env.metrics, &slots)?;
            slots
        }
    };
    let told: Arc<dyn FairShare> = Arc::<Slots>::clone(&slots);
    env.provide(slots);
    env.provide(Arc::new(told));
    Ok(())
}
