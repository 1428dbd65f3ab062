//! The little that is needed to write HTML and SVG safely: everything that came from a file or a user goes through [`escape`].

/// Text as it may stand in HTML or XML, between tags and within quoted attributes; control characters that XML forbids become U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(char),
            char if char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_quotes_and_control_characters_are_escaped() {
        assert_eq!(
            escape("<a href='x'>\"&\"\u{1}</a>"),
            "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;\u{fffd}&lt;/a&gt;"
        );
        assert_eq!(escape("2.76 ± 0.09 %\n"), "2.76 ± 0.09 %\n");
    }
}
