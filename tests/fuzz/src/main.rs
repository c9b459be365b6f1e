//! Feeds random inputs to the parsers: `cargo xtask fuzz TARGET --inputs N`.
//!
//! Fuzzing uses the stable compiler and is reproducible: the same seed produces the same inputs.
//! Inputs are mutations of examples. Every target returns a number that classifies its behaviour on
//! an input, and an input with a new number becomes an example.

mod mutate;
mod targets;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::mutate::{Mutator, Random};
use crate::targets::{TARGETS, Target};

/// Feeds random inputs to a parser
#[derive(Debug, Parser)]
struct Arguments {
    /// The parser, or `all`
    target: String,
    /// Number of inputs
    #[arg(long, default_value_t = 1_000_000)]
    inputs: u64,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs only this input, in the printed format
    #[arg(long)]
    input: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let all = arguments.target == "all";
    let targets: Vec<&Target> =
        TARGETS.iter().filter(|target| all || target.name == arguments.target).collect();
    if targets.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("no such target: `{}`; targets: {}", arguments.target, names.join(", "));
        return ExitCode::FAILURE;
    }
    if let Some(input) = &arguments.input {
        let Some(input) = from_hex(input) else {
            eprintln!("an input is an even number of hex digits");
            return ExitCode::FAILURE;
        };
        for target in targets {
            println!("{}: {}", target.name, (target.run)(&input));
        }
        return ExitCode::SUCCESS;
    }
    let mut good = true;
    for target in targets {
        good &= run(target, arguments.inputs, arguments.seed);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(target: &Target, inputs: u64, seed: u64) -> bool {
    let begun = Instant::now();
    let mut mutator = Mutator::new(Random::new(seed), (target.examples)());
    let mut seen = HashSet::new();
    for number in 0..inputs {
        let input = mutator.next();
        match catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            Ok(what) => {
                if seen.insert(what) {
                    mutator.keep(input);
                }
            }
            Err(_) => {
                println!(
                    "{}: failed at input {number} of seed {seed}; reproduce with",
                    target.name
                );
                println!("  cargo xtask fuzz {} --input {}", target.name, to_hex(&input));
                return false;
            }
        }
    }
    println!(
        "{:<10} {inputs:>10} inputs, seed {seed}, {:>6} kinds of outcome, {:>7.1?}",
        target.name,
        seen.len(),
        begun.elapsed()
    );
    true
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let (pairs, []) = digits.as_ref()?.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short run of every target keeps all targets working.
    #[test]
    fn every_target_runs() {
        for target in TARGETS {
            assert!(run(target, 3_000, 1), "{}", target.name);
        }
    }

    #[test]
    fn input_round_trips_as_hex() {
        assert_eq!(from_hex(&to_hex(b"\x00\xffa")).as_deref(), Some(&b"\x00\xffa"[..]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
    }

    #[test]
    fn same_seed_produces_same_inputs() {
        let inputs = |seed| {
            let mut mutator = Mutator::new(Random::new(seed), vec![b"example".to_vec()]);
            (0..50).map(|_| mutator.next()).collect::<Vec<_>>()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
    }
}
