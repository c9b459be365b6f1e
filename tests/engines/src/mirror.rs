//! The Debian mirror from apt's sources.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Returns the URL of the Debian archive of this machine's release in apt's sources.
///
/// # Errors
/// If the sources have none.
pub fn debian_mirror() -> Result<String> {
    let mut files = vec![Path::new("/etc/apt/sources.list").to_owned()];
    let more = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    files.extend(more.flatten().map(|entry| entry.path()));
    files.sort();
    files
        .iter()
        .filter_map(|file| {
            let text = fs::read_to_string(file).ok()?;
            match file.extension()?.to_str()? {
                "sources" => deb822(&text),
                "list" => one_line(&text),
                _ => None,
            }
        })
        .next()
        .context("apt's sources have no Debian archive")
}

/// Returns true for Debian's main archive; false for its security archive, which has another
/// layout, and for third-party archives.
fn is_debian(uri: &str, suites: &str, components: &str) -> bool {
    let scheme = ["http://", "https://"].iter().any(|s| uri.starts_with(s));
    let path = uri.trim_end_matches('/');
    scheme
        && path.ends_with("/debian")
        && components.split_ascii_whitespace().any(|c| c == "main")
        && !suites.contains("security")
}

fn deb822(text: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
        };
        if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
            return None;
        }
        let types = field("Types")?;
        let (suites, components) = (field("Suites")?, field("Components").unwrap_or_default());
        field("URIs")?
            .split_ascii_whitespace()
            .find(|uri| types.contains("deb") && is_debian(uri, suites, components))
            .map(str::to_owned)
    })
}

fn one_line(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.split('#').next()?.trim().strip_prefix("deb ")?.trim();
        // Options are in brackets: `deb [signed-by=...] URI suite component...`.
        let line = match line.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?.1.trim(),
            None => line,
        };
        let (uri, rest) = line.split_once(' ')?;
        let (suite, components) = rest.trim().split_once(' ')?;
        is_debian(uri, suite, components).then(|| uri.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_source_formats_are_parsed() {
        let new = "Types: deb\n# a comment: here\nURIs: http://mirror.example/debian\n\
                   Suites: bookworm bookworm-updates\nComponents: main\n\n\
                   Types: deb\nURIs: http://mirror.example/debian-security\n\
                   Suites: bookworm-security\nComponents: main\n";
        assert_eq!(deb822(new).unwrap(), "http://mirror.example/debian");
        let old = "# deb http://a.example/debian bookworm main\n\
                   deb [arch=amd64 signed-by=/k.gpg] https://b.example/debian/ bookworm main\n";
        assert_eq!(one_line(old).unwrap(), "https://b.example/debian/");
    }

    #[test]
    fn other_archives_are_skipped() {
        let other = "Types: deb\nURIs: https://packages.example/node\nSuites: nodistro\n\
                     Components: main\n";
        assert_eq!(deb822(other), None);
        assert_eq!(one_line("deb http://x.example/debian-security bookworm-security main"), None);
        let off = "Types: deb\nEnabled: no\nURIs: http://x.example/debian\nSuites: sid\n\
                   Components: main\n";
        assert_eq!(deb822(off), None);
    }
}
