//! Marks of terminals and of JSON inside a text. They stand so close to a word that it is not seen as one.

use regex::Regex;

use super::patterns::pattern;

/// What finds them.
#[derive(Debug)]
pub(super) struct Escapes {
    colours: Regex,
    slashes: Regex,
    letters: Regex,
}

impl Escapes {
    pub(super) fn new() -> Self {
        Self {
            colours: pattern(r"(?:\x1b|\\+(?:u001[bB]|x1[bB]|033|e))\[[0-9;?]*[A-Za-z]"),
            slashes: pattern(r"\\+/"),
            letters: pattern(r"\\+(?:[bfnrt]|u[0-9a-fA-F]{4})"),
        }
    }

    /// Without colours, and with slashes as they are meant.
    pub(super) fn plain(&self, text: &str) -> String {
        self.slashes.replace_all(&self.colours.replace_all(text, " "), "/").into_owned()
    }

    /// With spaces for the control characters that JSON writes as letters. Paths of files have to be gone.
    pub(super) fn apart(&self, text: &str) -> String {
        self.letters.replace_all(text, " ").into_owned()
    }
}
