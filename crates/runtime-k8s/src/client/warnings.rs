//! The `Warning` headers of the API server, RFC 7234, section 5.5.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use http::header::WARNING;

/// How many warnings are remembered. The oldest is reported again if it returns after so many
/// others.
const WARNINGS_MAX: usize = 128;

/// The longest part of a warning that is reported, in characters.
const TEXT_CHARS_MAX: usize = 1024;

/// The warnings that a connection has reported.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    reported: Mutex<VecDeque<String>>,
}

impl Warnings {
    /// Reports the warnings of a response that were not reported before.
    pub(super) fn report(&self, headers: &HeaderMap) {
        for text in self.unreported(headers) {
            tracing::warn!(warning = %text, "warning of the API server");
        }
    }

    /// Returns the new warnings of a response, and records them.
    fn unreported(&self, headers: &HeaderMap) -> Vec<String> {
        let mut new = Vec::new();
        for header in headers.get_all(WARNING) {
            for text in texts(&String::from_utf8_lossy(header.as_bytes())) {
                let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
                if reported.contains(&text) {
                    continue;
                }
                if reported.len() == WARNINGS_MAX {
                    reported.pop_front();
                }
                reported.push_back(text.clone());
                new.push(text);
            }
        }
        new
    }
}

/// Returns the texts of a header, which has one warning or several: `CODE AGENT "TEXT" ["DATE"]`,
/// separated by commas. Malformed rest is left out.
fn texts(mut header: &str) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        header = header.trim_start_matches([' ', '\t', ',']);
        let Some((text, rest)) = warning(header) else { return texts };
        header = rest;
        let text = text.trim().to_owned();
        if !text.is_empty() {
            texts.push(text);
        }
    }
}

/// Returns the text of the first warning, and the rest.
fn warning(header: &str) -> Option<(String, &str)> {
    let (code, rest) = header.split_once(' ')?;
    if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (agent, rest) = rest.trim_start_matches(' ').split_once(' ')?;
    if agent.is_empty() || agent.contains(['"', ',']) {
        return None;
    }
    let (text, rest) = quoted(rest.trim_start_matches(' '))?;
    let rest = rest.trim_start_matches([' ', '\t']);
    match quoted(rest) {
        Some((_, after))
            if after.trim_start().is_empty() || after.trim_start().starts_with(',') =>
        {
            Some((text, after))
        }
        _ if rest.is_empty() || rest.starts_with(',') => Some((text, rest)),
        _ => None,
    }
}

/// Returns the content of a quoted string at the beginning, and the rest. Control characters are
/// left out, because the text goes to a terminal or a log.
fn quoted(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut content = String::new();
    let mut length = 0;
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        let c = match c {
            '"' => return Some((content, &inside[at + 1..])),
            '\\' => chars.next()?.1,
            c => c,
        };
        if !c.is_control() && length < TEXT_CHARS_MAX {
            length += 1;
            content.push(c);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn header_with_warnings_is_parsed() {
        for (header, want) in [
            (r#"299 - "policy/v1beta1 is deprecated""#, &["policy/v1beta1 is deprecated"][..]),
            (r#"299 - "a \"b\" \\ c""#, &[r#"a "b" \ c"#]),
            (r#"299 - "one, two", 299 kube-apiserver "three""#, &["one, two", "three"]),
            (r#"299 - "one",299 - "two""#, &["one", "two"]),
            (
                r#"110 proxy:8080 "stale" "Sun, 06 Nov 1994 08:49:37 GMT", 299 - "x""#,
                &["stale", "x"],
            ),
            (r#"299 - "" , 299 - "x""#, &["x"]),
            ("299 - \"tab\tand \u{1b}[31mcolour\"", &["taband [31mcolour"]),
            (r#"299 - "ümlaut""#, &["ümlaut"]),
            (r#"299 - "ends early"#, &[]),
            (r#"299 - "one", 29 - "two""#, &["one"]),
            (r#"299 - "one" garbage"#, &[]),
            ("299 -", &[]),
            ("", &[]),
            ("plain text", &[]),
        ] {
            assert_eq!(texts(header), want, "{header}");
        }
        let long = format!("299 - \"{}\"", "x".repeat(2 * TEXT_CHARS_MAX));
        assert_eq!(texts(&long)[0].len(), TEXT_CHARS_MAX);
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WARNING, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn warning_is_reported_once() {
        let warnings = Warnings::default();
        let both = headers(&[r#"299 - "a""#, r#"299 - "b", 299 - "a""#]);
        assert_eq!(warnings.unreported(&both), ["a", "b"]);
        assert!(warnings.unreported(&both).is_empty());
        assert!(warnings.unreported(&HeaderMap::new()).is_empty());
        for number in 0..10 * WARNINGS_MAX {
            let text = format!("299 - \"{number}\"");
            assert_eq!(warnings.unreported(&headers(&[&text])).len(), 1);
        }
        assert_eq!(warnings.reported.lock().unwrap().len(), WARNINGS_MAX);
        assert_eq!(warnings.unreported(&both), ["a", "b"], "evicted warnings are reported again");
    }

    proptest! {
        #[test]
        fn any_text_survives_its_quotes(text in "[ -~äß]{1,80}") {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("299 - \"{quoted}\", 299 - \"next\"");
            let text = text.trim();
            let want: Vec<&str> = [text, "next"].into_iter().filter(|t| !t.is_empty()).collect();
            prop_assert_eq!(texts(&header), want);
        }

        #[test]
        fn any_header_is_survived(header in "\\PC{0,80}") {
            texts(&header);
        }
    }
}
