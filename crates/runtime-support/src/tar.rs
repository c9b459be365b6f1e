//! The end of a tar stream.

/// A tar stream ends with two blocks of zeros: so many bytes.
pub const END_OF_TAR: usize = 1024;

/// How many zeros a tar stream ends with after `piece`, when it had `before` so far; no more than
/// [`END_OF_TAR`].
#[must_use]
pub fn zeros_at_end(before: usize, piece: &[u8]) -> usize {
    let zeros = piece.iter().rev().take(END_OF_TAR).take_while(|byte| **byte == 0).count();
    if zeros == piece.len() { (before + zeros).min(END_OF_TAR) } else { zeros }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_tar_is_seen_over_pieces() {
        let end =
            |pieces: &[&[u8]]| pieces.iter().fold(0, |zeros, piece| zeros_at_end(zeros, piece));
        assert_eq!(end(&[&[1; 10], &[0; 1000], &[], &[0; 24]]), END_OF_TAR);
        assert_eq!(end(&[&[0; 2000], &[1], &[0; 1023]]), 1023);
        assert_eq!(end(&[&[0; 5000]]), END_OF_TAR);
        assert_eq!(end(&[]), 0);
    }
}
