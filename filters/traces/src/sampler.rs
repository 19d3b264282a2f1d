//! Which requests are followed: the samplers of OpenTelemetry's specification.

use dgx_gateway_filter::trace::{TraceContext, TraceId};

/// The decision for a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sampler {
    /// What the client's trace says; the share where there is none.
    ParentBased(Share),
    /// The share, whatever the client says.
    Root(Share),
}

/// A share of all traces. Every service that knows the same share picks the same traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Traces whose number lies below are picked; compared are the lower 63 bits of its 128.
    below: u64,
}

/// One more than the largest number that is compared.
const ALL: u64 = 1 << 63;

impl Share {
    pub(crate) const ALL: Self = Self { below: ALL };
    pub(crate) const NONE: Self = Self { below: 0 };

    /// `None` unless the ratio lies between 0 and 1.
    pub(crate) fn of(ratio: f64) -> Option<Self> {
        if !(0.0..=1.0).contains(&ratio) {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "2^63 is exact, and the product lies between 0 and it"
        )]
        let below = (ratio * ALL as f64) as u64;
        Some(Self { below })
    }

    fn picks(self, trace: TraceId) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace.0.to_be_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < self.below
    }
}

impl Sampler {
    /// Whether a request is followed that belongs to this trace.
    pub(crate) fn follows(self, trace: TraceId, parent: Option<TraceContext>) -> bool {
        match (self, parent) {
            (Self::ParentBased(_), Some(parent)) => parent.is_sampled(),
            (Self::ParentBased(share) | Self::Root(share), _) => share.picks(trace),
        }
    }
}

#[cfg(test)]
mod tests {
    use dgx_gateway_filter::trace::SpanId;

    use super::*;

    const LOW: TraceId = TraceId(1);
    const HIGH: TraceId = TraceId(u128::MAX);

    #[test]
    fn a_share_is_one_of_the_numbers_of_traces() {
        let half = Share::of(0.5).unwrap();
        assert!(half.picks(LOW) && !half.picks(HIGH));
        assert!(half.picks(TraceId(0x7fff_ffff_ffff_ffff)) && !half.picks(TraceId(0x8000_0000_0000_0000)));
        assert!(half.picks(TraceId(1 << 127 | 1)), "the upper half of the number does not count");
        assert!(Share::of(1.0) == Some(Share::ALL) && Share::ALL.picks(HIGH));
        assert!(Share::of(0.0) == Some(Share::NONE) && !Share::NONE.picks(LOW));
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::of(bad), None);
        }
    }

    #[test]
    fn about_the_share_of_random_numbers_is_picked() {
        let tenth = Share::of(0.1).unwrap();
        let picked = (0..10_000).filter(|_| tenth.picks(TraceId(rand::random()))).count();
        assert!((700..1300).contains(&picked), "{picked}"); // ten standard deviations
    }

    #[test]
    fn the_client_decides_only_where_it_is_asked() {
        for sampled in [true, false] {
            let parent = Some(TraceContext::new(LOW, SpanId(1), sampled));
            assert_eq!(Sampler::ParentBased(Share::ALL).follows(LOW, parent), sampled);
            assert_eq!(Sampler::ParentBased(Share::NONE).follows(LOW, parent), sampled);
            assert!(Sampler::Root(Share::ALL).follows(LOW, parent) && !Sampler::Root(Share::NONE).follows(LOW, parent));
        }
        assert!(Sampler::ParentBased(Share::ALL).follows(LOW, None));
        assert!(!Sampler::ParentBased(Share::NONE).follows(LOW, None));
    }
}
