//! The number grammar of RFC 8259 section 6, digit by digit, with the range that 64-bit floating point has.

/// Powers of ten that lie next to the end of the range: the only ones where the product has to be computed.
const EDGE: [f64; 21] = [
    1e288, 1e289, 1e290, 1e291, 1e292, 1e293, 1e294, 1e295, 1e296, 1e297, 1e298, 1e299, 1e300, 1e301, 1e302, 1e303,
    1e304, 1e305, 1e306, 1e307, 1e308,
];
/// Exponent of the first power in [`EDGE`]. No significand reaches infinity with a smaller one: it is below 2^64.
const EDGE_START: i32 = 288;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Exponent,
    ExponentDigits,
    ExponentSign,
    Fraction,
    FractionDigits,
    Integer,
    Sign,
    Zero,
}

/// A number that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    place: Place,
    significand: u64,
    /// Set when a digit did not fit into the significand: further ones only move the exponent.
    full: bool,
    exponent: i32,
    written_exponent: Option<i32>,
    negative_exponent: bool,
}

/// What a byte means for the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The byte cannot stand there.
    Bad,
    /// The number ended before this byte.
    Ended,
    /// The byte belongs to the number.
    Taken,
}

impl Number {
    /// Starts with the first byte, `-` or a digit; anything else starts no number.
    pub(super) fn start(byte: u8) -> Option<Self> {
        let place = match byte {
            b'-' => Place::Sign,
            b'0' => Place::Zero,
            b'1'..=b'9' => Place::Integer,
            _ => return None,
        };
        let significand = if place == Place::Sign { 0 } else { u64::from(byte - b'0') };
        Some(Self { place, significand, full: false, exponent: 0, written_exponent: Some(0), negative_exponent: false })
    }

    /// Takes the next byte.
    pub(super) fn step(&mut self, byte: u8) -> Step {
        let next = match (self.place, byte) {
            (Place::Sign, b'0') => Place::Zero,
            (Place::Sign, b'1'..=b'9') | (Place::Integer, b'0'..=b'9') => {
                self.digit(byte, 1, 0);
                Place::Integer
            }
            (Place::Zero | Place::Integer, b'.') => {
                self.full = false;
                Place::Fraction
            }
            (Place::Fraction | Place::FractionDigits, b'0'..=b'9') => {
                self.digit(byte, 0, -1);
                Place::FractionDigits
            }
            (Place::Zero | Place::Integer | Place::FractionDigits, b'e' | b'E') => Place::Exponent,
            (Place::Exponent, b'+' | b'-') => {
                self.negative_exponent = byte == b'-';
                Place::ExponentSign
            }
            (Place::Exponent | Place::ExponentSign | Place::ExponentDigits, b'0'..=b'9') => {
                let digit = i32::from(byte - b'0');
                let shifted = self.written_exponent.and_then(|exponent| exponent.checked_mul(10));
                self.written_exponent = shifted.and_then(|exponent| exponent.checked_add(digit));
                Place::ExponentDigits
            }
            (Place::Zero, b'0'..=b'9') => return Step::Bad,
            _ if self.is_complete() => return Step::Ended,
            _ => return Step::Bad,
        };
        self.place = next;
        Step::Taken
    }

    /// Whether the number may end here.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.place, Place::Zero | Place::Integer | Place::FractionDigits | Place::ExponentDigits)
    }

    /// Whether it has neither a fraction nor an exponent.
    pub(super) fn is_integer(&self) -> bool {
        matches!(self.place, Place::Zero | Place::Integer)
    }

    /// Whether the value is finite as a 64-bit floating point number, by the arithmetic of `serde_json`:
    /// the significand cut to 64 bits, times a power of ten.
    pub(super) fn is_in_range(&self) -> bool {
        if self.significand == 0 {
            return true;
        }
        let exponent = match (self.written_exponent, self.negative_exponent) {
            (Some(written), false) => self.exponent.saturating_add(written),
            (Some(written), true) => self.exponent.saturating_sub(written),
            (None, negative) => return negative,
        };
        let Ok(edge) = usize::try_from(exponent.saturating_sub(EDGE_START)) else { return true };
        #[expect(clippy::cast_precision_loss, reason = "the same loss as in the parser that this follows")]
        let significand = self.significand as f64;
        EDGE.get(edge).is_some_and(|power| (significand * power).is_finite())
    }

    fn digit(&mut self, byte: u8, when_full: i32, when_kept: i32) {
        let digit = u64::from(byte - b'0');
        let grown = self.significand.checked_mul(10).and_then(|grown| grown.checked_add(digit));
        match grown {
            Some(grown) if !self.full => {
                self.significand = grown;
                self.exponent = self.exponent.saturating_add(when_kept);
            }
            _ => {
                self.full = true;
                self.exponent = self.exponent.saturating_add(when_full);
            }
        }
    }
}
