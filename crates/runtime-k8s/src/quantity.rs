//! Quantities of the Kubernetes API, such as `500m` and `64Mi`.

/// Parses a quantity of the API: a number with a decimal or binary suffix.
pub(crate) fn quantity(text: &str) -> Option<f64> {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
    parse_quantity(text).filter(|number| is_number && number.is_finite())
}

fn parse_quantity(text: &str) -> Option<f64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => f64::from(1_u32 << 10),
        "Mi" => f64::from(1_u32 << 20),
        "Gi" => f64::from(1_u32 << 30),
        "Ti" => (1_u64 << 40) as f64,
        "Pi" => (1_u64 << 50) as f64,
        "Ei" => (1_u64 << 60) as f64,
        // 12e6 and 12E6
        _ => return text.parse().ok(),
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
pub(crate) fn whole(number: f64) -> Option<u64> {
    (number >= 0.0 && number < u64::MAX as f64).then(|| number.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantity_with_suffix_is_parsed_and_malformed_is_none() {
        for (text, want) in [
            ("1", 1.0),
            ("500m", 0.5),
            ("128Mi", 134_217_728.0),
            ("1e3", 1000.0),
            ("2E3", 2000.0),
            ("1Gi", 1_073_741_824.0),
            ("0.5", 0.5),
            ("100n", 1e-7),
        ] {
            let read = quantity(text).unwrap();
            assert!((read - want).abs() <= want * 1e-12, "{text} is read as {read}");
        }
        for bad in ["", "x", "1Xi", "m", "inf", "NaN", "-inf", "1e999", "infinity", "+inf"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }
}
