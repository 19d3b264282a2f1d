//! Small changes of a text: lines of a block list, items of a list in brackets. Everything else keeps its bytes.

use std::ops::Range;

use super::tree::Node;

/// Replacements of one text, which all count in the text as it was.
pub(super) struct Splices<'t> {
    text: &'t str,
    line_break: &'static str,
    changes: Vec<(Range<usize>, String)>,
}

impl<'t> Splices<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let line_break = if text.contains("\r\n") { "\r\n" } else { "\n" };
        Self { text, line_break, changes: Vec::new() }
    }

    /// The text with all changes. Changes at one place stand in the order in which they were asked for.
    pub(super) fn finish(mut self) -> Option<String> {
        self.changes.sort_by_key(|(range, _)| range.start);
        let (mut out, mut at) = (String::with_capacity(self.text.len() + 512), 0);
        for (range, new) in &self.changes {
            out.push_str(self.text.get(at..range.start)?);
            out.push_str(new);
            at = range.end;
        }
        out.push_str(self.text.get(at..)?);
        Some(out)
    }

    pub(super) fn replace(&mut self, range: Range<usize>, new: impl Into<String>) {
        self.changes.push((range, new.into()));
    }

    /// New lines behind the line that holds `at`, each indented by `column`.
    pub(super) fn lines_behind(&mut self, at: usize, column: usize, lines: &[String]) {
        let end = self.line_end(at);
        let new = lines.iter().map(|line| format!("{}{:column$}{line}", self.line_break, "")).collect::<String>();
        self.replace(end..end, new);
    }

    /// New lines at the end of the text.
    pub(super) fn lines_at_end(&mut self, lines: &[String]) {
        let mut new = String::new();
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            new.push_str(self.line_break);
        }
        for line in lines {
            new.push_str(line);
            new.push_str(self.line_break);
        }
        self.replace(self.text.len()..self.text.len(), new);
    }

    /// One more item of a list in brackets.
    pub(super) fn flow_item(&mut self, list: &Node, item: &str) {
        match list.items().and_then(<[Node]>::last) {
            Some(last) => self.replace(last.span.end..last.span.end, format!(", {item}")),
            None => self.replace(list.span.start + 1..list.span.start + 1, item),
        }
    }

    /// One more item of a block list, given as lines of which the first begins with the dash.
    pub(super) fn block_item(&mut self, last: &Node, lines: &[String]) -> Option<()> {
        let dash = self.dash(last.span.start)?;
        let column = dash - self.line_start(dash);
        self.lines_behind(self.block_end(last, column), column, lines);
        Some(())
    }

    /// Takes an item out of a list, with its comma or its lines.
    pub(super) fn remove_item(&mut self, list: &Node, index: usize) -> Option<()> {
        let items = list.items()?;
        let item = items.get(index)?;
        if !list.is_flow(self.text) {
            let dash = self.dash(item.span.start)?;
            let start = self.line_start(dash);
            let end = self.line_end(self.block_end(item, dash - start));
            let rest = self.text.get(end..)?;
            let line_break = if rest.starts_with("\r\n") { 2 } else { rest.len().min(1) };
            self.replace(start..end + line_break, "");
        } else if let Some(comma) = self.comma_behind(item.span.end) {
            let rest = self.text.get(comma + 1..)?;
            let blanks = rest.len() - rest.trim_start_matches(' ').len();
            self.replace(item.span.start..item.span.end, "");
            self.replace(comma..comma + 1 + blanks, "");
        } else {
            if let Some(before) = index.checked_sub(1).and_then(|before| items.get(before)) {
                let comma = self.comma_behind(before.span.end)?;
                self.replace(comma..comma + 1, "");
            }
            self.replace(item.span.clone(), "");
        }
        Some(())
    }

    /// Column of a place within its line.
    pub(super) fn column(&self, at: usize) -> usize {
        at - self.line_start(at)
    }

    fn line_start(&self, at: usize) -> usize {
        self.text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |found| found + 1)
    }

    /// Where the line that holds `at` ends, before its line break.
    fn line_end(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default();
        at + line.strip_suffix('\r').unwrap_or(line).len()
    }

    /// The dash of the item that begins at `at`: on its line, or on one before.
    fn dash(&self, at: usize) -> Option<usize> {
        let mut start = self.line_start(at);
        loop {
            let line = self.text.get(start..self.line_end(start))?;
            let trimmed = line.trim_start_matches(' ');
            if trimmed == "-" || trimmed.starts_with("- ") {
                return Some(start + line.len() - trimmed.len());
            }
            start = self.line_start(start.checked_sub(1)?);
        }
    }

    /// Some place in the last line of a block item: of its values, or of the comments that are indented further than
    /// its dash and follow without an empty line.
    fn block_end(&self, item: &Node, column: usize) -> usize {
        let values = self.text.get(..item.span.end).unwrap_or_default().trim_end().len();
        let mut end = self.line_end(values);
        while let Some(rest) = self.text.get(end..).filter(|rest| !rest.is_empty()) {
            let next = end + if rest.starts_with("\r\n") { 2 } else { 1 };
            let line = self.text.get(next..self.line_end(next)).unwrap_or_default();
            let trimmed = line.trim_start_matches(' ');
            if !trimmed.starts_with('#') || line.len() - trimmed.len() <= column {
                break;
            }
            end = next + line.len();
        }
        end
    }

    /// The comma behind an item in brackets, over blanks, line breaks and comments.
    fn comma_behind(&self, end: usize) -> Option<usize> {
        let mut comment = false;
        for (index, byte) in self.text.bytes().enumerate().skip(end) {
            match byte {
                b'\n' => comment = false,
                b' ' | b'\t' | b'\r' => {}
                _ if comment => {}
                b'#' => comment = true,
                b',' => return Some(index),
                _ => return None,
            }
        }
        None
    }
}
