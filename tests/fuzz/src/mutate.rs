//! Random changes to examples.

/// Random numbers that are the same for the same seed: splitmix64.
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

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// What is in no example, but in the conditions of parsers.
const WORDS: [&[u8]; 16] = [
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

const BYTES: [u8; 12] = [0, 1, 2, 3, 10, 13, 32, 34, 48, 127, 128, 255];

/// Longer inputs reach little more of a parser.
const LONGEST: usize = 4096;

/// One in so many inputs is long all the same: some parsers have other ways for what is longer than
/// they hold, which is up to 64 KiB.
const FEW: usize = 512;
const STRETCHED: usize = 160 << 10;
const MOST_KEPT: usize = 4096;

/// Makes inputs of examples.
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

    /// Takes an input as one more example.
    pub(crate) fn keep(&mut self, mut input: Vec<u8>) {
        // A long one would make all that come of it slow.
        input.truncate(LONGEST);
        if self.examples.len() < MOST_KEPT {
            self.examples.push(input);
        } else {
            let at = self.random.below(MOST_KEPT);
            self.examples[at] = input;
        }
    }

    pub(crate) fn next(&mut self) -> Vec<u8> {
        let at = self.random.below(self.examples.len());
        let mut input = self.examples[at].clone();
        for _ in 0..1 + self.random.below(4) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        if self.random.below(FEW) == 0 {
            self.stretch(&mut input);
        }
        input
    }

    /// Repeats a piece of the input many times.
    fn stretch(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let to = at + self.random.below((input.len() - at).min(64) + 1);
        let piece = if at < to { input[at..to].to_vec() } else { b"x".to_vec() };
        let times = self.random.below(STRETCHED) / piece.len();
        input.splice(to..to, piece.repeat(times));
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let to = at + self.random.below(input.len() - at + 1);
        match self.random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.random.below(8),
            1 if at < input.len() => input[at] = BYTES[self.random.below(BYTES.len())],
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
                let word = WORDS[self.random.below(WORDS.len())];
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
