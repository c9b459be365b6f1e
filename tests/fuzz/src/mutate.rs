//! Random mutations of examples.

/// Random number generator that is reproducible from its seed: splitmix64.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Tokens that the parsers check for and that the examples lack.
const TOKENS: [&[u8]; 16] = [
    b"\n",
    b"\r\n",
    b" ",
    b"\"",
    b"{}",
    b"null",
    b"-1",
    b"18446744073709551615",
    b"1e999",
    b"Z ",
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b":@/",
    b"@sha256:",
    b"2026-11-23T16:24:36.000000001Z ",
];

const INTERESTING_BYTES: [u8; 12] = [0, 1, 2, 3, 10, 13, 32, 34, 48, 127, 128, 255];

/// Maximum input length; longer inputs reach little more of a parser.
const LENGTH_MAX: usize = 4096;

/// One input in this number is longer, because some parsers handle data above their buffer size, up
/// to 64 KiB, differently.
const LONG_INPUT_ODDS: usize = 512;
const LONG_INPUT_LENGTH_MAX: usize = 160 << 10;
const EXAMPLES_MAX: usize = 4096;

/// Creates inputs from examples.
#[derive(Debug)]
pub(crate) struct Mutator {
    random: Random,
    examples: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(random: Random, mut examples: Vec<Vec<u8>>) -> Self {
        examples.push(Vec::new());
        Self { random, examples }
    }

    /// Adds an input to the examples.
    pub(crate) fn keep(&mut self, mut input: Vec<u8>) {
        // A long example would slow down all of its mutations.
        input.truncate(LENGTH_MAX);
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(input);
        } else {
            let at = self.random.below(EXAMPLES_MAX);
            self.examples[at] = input;
        }
    }

    pub(crate) fn next(&mut self) -> Vec<u8> {
        let at = self.random.below(self.examples.len());
        let mut input = self.examples[at].clone();
        for _ in 0..1 + self.random.below(4) {
            self.change(&mut input);
        }
        input.truncate(LENGTH_MAX);
        if self.random.below(LONG_INPUT_ODDS) == 0 {
            self.stretch(&mut input);
        }
        input
    }

    /// Repeats a part of the input many times.
    fn stretch(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let to = at + self.random.below((input.len() - at).min(64) + 1);
        let piece = if at < to { input[at..to].to_vec() } else { b"x".to_vec() };
        let times = self.random.below(LONG_INPUT_LENGTH_MAX) / piece.len();
        input.splice(to..to, piece.repeat(times));
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let to = at + self.random.below(input.len() - at + 1);
        match self.random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.random.below(8),
            1 if at < input.len() => {
                input[at] = INTERESTING_BYTES[self.random.below(INTERESTING_BYTES.len())];
            }
            2 if at < input.len() => input[at] = self.random.next() as u8,
            3 => {
                let byte = self.random.next() as u8;
                input.insert(at, byte);
            }
            4 => drop(input.drain(at..to.min(at + 32))),
            5 => {
                let again = input[at..to.min(at + 64)].to_vec();
                input.splice(to..to, again);
            }
            6 => {
                let word = TOKENS[self.random.below(TOKENS.len())];
                input.splice(at..at, word.iter().copied());
            }
            7 => {
                let other = &self.examples[self.random.below(self.examples.len())];
                let from =
                    if other.is_empty() { 0 } else { self.random.next() as usize % other.len() };
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.truncate(at),
        }
    }
}
