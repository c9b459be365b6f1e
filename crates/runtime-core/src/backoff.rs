//! Exponential backoff.

use std::time::Duration;

/// Delays that double from `first` up to `most`, minus a random part of up to a quarter, so that
/// the clients of one engine do not retry at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Creates a backoff with delays from `first` to `most`.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// Returns the next delay, between three quarters of the nominal delay and the nominal delay.
    pub fn delay(&mut self) -> Duration {
        let nominal = self.next;
        self.next = nominal.saturating_mul(2).min(self.most);
        let mut byte = [0_u8; 1];
        // Without random bytes, the nominal delay is used.
        let spread = if getrandom::fill(&mut byte).is_ok() { u32::from(byte[0]) } else { 0 };
        nominal - nominal / 4 * spread / 255
    }

    /// Resets to the first delay. Call this after a success.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    /// Returns a backoff from 50 ms to 5 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_its_most_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for nominal in [100, 200, 350, 350] {
            let delay = backoff.delay();
            assert!(delay <= Duration::from_millis(nominal), "{delay:?} over {nominal}");
            assert!(delay >= Duration::from_millis(nominal * 3 / 4), "{delay:?} under {nominal}");
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(100));
    }
}
