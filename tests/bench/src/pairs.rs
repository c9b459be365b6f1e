//! Alternating measurements of two clients.

use std::time::Instant;

use anyhow::Result;

use crate::measure::{Table, median, quantile, seconds};

/// Durations of both clients, pair by pair.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    ours: Vec<f64>,
    bare: Vec<f64>,
}

impl Pairs {
    /// Measures both clients in pairs. The first client alternates, because each leaves the engine
    /// in another state.
    pub(crate) async fn run(
        count: usize,
        mut ours: impl AsyncFnMut(usize) -> Result<()>,
        mut bare: impl AsyncFnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let mut pairs = Self::default();
        for pair in 0..count {
            for turn in 0..2 {
                let begun = Instant::now();
                if (pair + turn) % 2 == 0 {
                    ours(pair).await?;
                    pairs.ours.push(begun.elapsed().as_secs_f64());
                } else {
                    bare(pair).await?;
                    pairs.bare.push(begun.elapsed().as_secs_f64());
                }
            }
        }
        Ok(pairs)
    }

    /// Prints one row per client with its number of requests, and the ratio.
    pub(crate) fn print(&self, asked: &str, ours: String, bare: (&str, String)) {
        let what = "create + start + wait + logs + remove of a container that exits at once";
        self.print_as(what, asked, ours, bare, " (at most 1.03)");
    }

    /// Same as [`print`](Self::print) for another measurement.
    pub(crate) fn print_as(
        &self,
        what: &str,
        asked: &str,
        ours: String,
        bare: (&str, String),
        limit: &str,
    ) {
        let mut table = Table::new(&["", asked, "median", "quartiles"]);
        for (name, asked, times) in [("ours", ours, &self.ours), (bare.0, bare.1, &self.bare)] {
            table.row([
                name.to_owned(),
                asked,
                seconds(median(times)),
                format!("{} to {}", seconds(quantile(times, 0.25)), seconds(quantile(times, 0.75))),
            ]);
        }
        let count = self.ours.len();
        table.print(&format!("{what}, {count} pairs"));
        let ratios: Vec<f64> = self.ours.iter().zip(&self.bare).map(|(a, b)| a / b).collect();
        println!(
            "  ratio of the medians {:.3}, median of the ratios of the pairs {:.3}{limit}",
            median(&self.ours) / median(&self.bare),
            median(&ratios)
        );
    }
}
