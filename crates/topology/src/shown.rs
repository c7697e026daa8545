//! Foreign text in a message.

use alloc::string::String;

/// The longest text that a message repeats, in characters.
const SHOWN_MAX: usize = 200;

/// A text as it may stand in a line of the log: short, and without what would begin another line or move the cursor.
pub(crate) fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    match text.char_indices().nth(SHOWN_MAX) {
        None => text.chars().map(plain).collect(),
        Some((end, _)) => text[..end].chars().map(plain).chain("...".chars()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_short_line() {
        assert_eq!(shown("a\u{e9}b"), "a\u{e9}b");
        assert_eq!(shown("a\r\nb\u{1b}[2J\0"), "a??b?[2J?");
        assert_eq!(shown(&"\u{e9}".repeat(200)), "\u{e9}".repeat(200));
        assert_eq!(shown(&"\u{e9}".repeat(201)), "\u{e9}".repeat(200) + "...");
    }
}
