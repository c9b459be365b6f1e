//! Version strings of engines.

/// Parses the first three numbers of a version such as `20.10.24+dfsg1` or `v2.1.9`. A missing
/// number is 0.
///
/// The returned arrays compare in version order.
#[must_use]
pub fn version_numbers(version: &str) -> [u32; 3] {
    let mut numbers = version
        .trim_start_matches('v')
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::version_numbers;

    #[test]
    fn version_numbers_parses_first_three_numbers() {
        for (text, expected) in [
            ("1.6.20~ds1", [1, 6, 20]),
            ("1.7.24~ds1", [1, 7, 24]),
            ("20.10.24+dfsg1", [20, 10, 24]),
            ("v2.1.9", [2, 1, 9]),
            ("2.1.9+ds1", [2, 1, 9]),
            ("1.30.0-dev", [1, 30, 0]),
            ("2.1", [2, 1, 0]),
            ("20", [20, 0, 0]),
            ("36+", [36, 0, 0]),
            ("22-gke.1", [22, 0, 0]),
            ("x", [0, 0, 0]),
            ("", [0, 0, 0]),
        ] {
            assert_eq!(version_numbers(text), expected, "{text}");
        }
        assert!(version_numbers("1.10.0") > version_numbers("1.9.12"));
    }
}
