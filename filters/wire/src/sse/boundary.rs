//! Where an event ends: the line ends of the specification as a state machine over bytes.

use memchr::memchr2;

/// Position within the lines of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Position {
    /// A line ended with CR; an LF that follows belongs to it.
    AfterCr,
    /// Between two events: blank lines belong to none.
    #[default]
    Between,
    /// The blank line began with a CR. After a line that ended with LF an LF is due, so it is waited for.
    BlankCr,
    /// Inside a line with content.
    Line,
    /// A line ended with LF or CRLF.
    LineStart,
}

/// Finds the end of each event. Its answer depends on the bytes alone, not on how they were cut.
#[derive(Debug, Default)]
pub(super) struct Boundary(Position);

impl Boundary {
    /// Counts the bytes at the front that lie between events.
    pub(super) fn leading_blanks(&self, bytes: &[u8]) -> usize {
        if self.0 == Position::Between {
            bytes.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count()
        } else {
            0
        }
    }

    /// Reads on from where the last call stopped; the end of the event within `bytes`, if it is there.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            match (self.0, byte) {
                (Position::Line, _) => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let ended = memchr2(b'\n', b'\r', rest)?;
                    let by_cr = rest.get(ended) == Some(&b'\r');
                    self.0 = if by_cr { Position::AfterCr } else { Position::LineStart };
                    at += ended + 1;
                }
                (Position::LineStart | Position::BlankCr, b'\n') | (Position::AfterCr, b'\r') => {
                    self.0 = Position::Between;
                    return Some(at + 1);
                }
                (Position::BlankCr, _) => {
                    self.0 = Position::Between;
                    return Some(at);
                }
                (Position::AfterCr, b'\n') => {
                    self.0 = Position::LineStart;
                    at += 1;
                }
                (Position::LineStart, b'\r') => {
                    self.0 = Position::BlankCr;
                    at += 1;
                }
                (Position::AfterCr | Position::Between | Position::LineStart, _) => self.0 = Position::Line,
            }
        }
        None
    }
}
