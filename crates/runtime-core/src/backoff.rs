//! Waiting longer after each failure.

use std::time::Duration;

/// Delays that double from `first` up to `most`, spread by up to a quarter so that many
/// clients of one engine do not come back at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from `first` to `most`.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next delay, between three quarters of the nominal one and the whole of it.
    pub fn delay(&mut self) -> Duration {
        let nominal = self.next;
        self.next = nominal.saturating_mul(2).min(self.most);
        let mut byte = [0_u8; 1];
        // Without randomness the delay is the nominal one, which is still a correct delay.
        let spread = if getrandom::fill(&mut byte).is_ok() { u32::from(byte[0]) } else { 0 };
        nominal - nominal / 4 * spread / 255
    }

    /// Starts again from the first delay: call it after a success.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    /// From 50 ms to 5 s.
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
