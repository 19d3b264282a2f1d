//! `max_tokens`: floor, ceiling and context, in this order. Pure.

/// What applies to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Least value of the model.
    pub floor: Option<u32>,
    /// Most the token may ask for.
    pub token_ceiling: Option<u32>,
    /// Most the model writes.
    pub model_ceiling: Option<u32>,
    /// Tokens left in the context of the serving entry, where known.
    pub left: Option<u64>,
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// Lowered to, or added as.
    Clamped(u64),
    /// Raised to.
    Floored(u64),
    /// Untouched.
    Unchanged,
}

impl Bounds {
    /// What becomes of a value that the client sent.
    pub(crate) fn apply(self, value: u64) -> Applied {
        let floor = u64::from(self.floor.unwrap_or(0));
        let ceiling = self.token_ceiling.into_iter().chain(self.model_ceiling).min().map_or(u64::MAX, u64::from);
        let bounded = value.max(floor).min(ceiling.max(floor));
        // an estimate must not take a value below its floor, or to nothing: then the upstream decides
        let fitting = match self.left {
            Some(left) if left >= 1 && left >= floor => bounded.min(left),
            _ => bounded,
        };
        match fitting {
            fitting if fitting > value => Applied::Floored(fitting),
            fitting if fitting < value => Applied::Clamped(fitting),
            _ => Applied::Unchanged,
        }
    }

    /// What is added when the client sent nothing: the ceiling of its token.
    pub(crate) fn absent(self) -> Option<u64> {
        let ceiling = u64::from(self.token_ceiling?);
        Some(self.value(ceiling))
    }

    /// A value after all bounds.
    pub(crate) fn value(self, value: u64) -> u64 {
        match self.apply(value) {
            Applied::Clamped(new) | Applied::Floored(new) => new,
            Applied::Unchanged => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(floor: u32, token: u32, left: u64) -> Bounds {
        let some = |value: u32| (value > 0).then_some(value);
        Bounds { floor: some(floor), token_ceiling: some(token), model_ceiling: None, left: (left > 0).then_some(left) }
    }

    #[test]
    fn follows_the_table_of_the_contract() {
        for (floor, token, left, sent, expected) in [
            (200, 0, 1_050_000, 50, Applied::Floored(200)),
            (200, 0, 1_050_000, 200, Applied::Unchanged),
            (16, 0, 0, 10, Applied::Floored(16)),
            (0, 0, 1072, 4096, Applied::Clamped(1072)),
            (200, 0, 150, 50, Applied::Floored(200)), // an estimate: the upstream decides
            (200, 100, 0, 50, Applied::Floored(200)),
            (0, 4096, 0, 9000, Applied::Clamped(4096)),
        ] {
            assert_eq!(bounds(floor, token, left).apply(sent), expected, "{floor} {token} {left} {sent}");
        }
        assert_eq!(bounds(0, 4096, 0).absent(), Some(4096));
        assert_eq!(bounds(200, 100, 0).absent(), Some(200));
        assert_eq!(bounds(200, 0, 1_050_000).absent(), None);
    }
}
