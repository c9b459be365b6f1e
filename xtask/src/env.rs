//! `cargo xtask env`: starts and stops the engines of the tests manually.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::{Args, Subcommand};
use test_engines::{Cluster, Engine, Running, Site};

/// Default engines of `cargo xtask test` without the cluster, whose first build takes minutes.
pub const DEFAULT: [Engine; 4] =
    [Engine::Registry, Engine::Docker, Engine::Podman, Engine::Containerd];

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Starts engines (by default those of the tests, without the cluster) and prints their
    /// variables
    Up {
        #[command(flatten)]
        names: Names,
        /// The number of additional hollow nodes, which simulate pods, of the Kubernetes cluster
        #[arg(long, value_name = "COUNT", default_value_t = 0)]
        hollow: usize,
    },
    /// Stops engines (by default all) and removes everything that they created
    Down(Names),
    /// Lists running engines and prints the variables to export
    Status(Names),
}

#[derive(Debug, Args)]
struct Names {
    /// Names of engines
    #[arg(value_parser = parse)]
    names: Vec<Engine>,
}

fn parse(name: &str) -> Result<Engine, String> {
    name.parse().map_err(|error: anyhow::Error| error.to_string())
}

impl Names {
    fn or(&self, default: &[Engine]) -> Vec<Engine> {
        match self.names.is_empty() {
            true => default.to_vec(),
            false => self.names.clone(),
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let site = Site::of_checkout()?;
    match &arguments.action {
        Action::Up { names, hollow } => {
            let mut running = Vec::new();
            for engine in names.or(&DEFAULT) {
                running.push(site.up(engine)?);
                if engine == Engine::Kubernetes && *hollow > 0 {
                    Cluster::at(&site).hollow_nodes(*hollow)?;
                }
            }
            print(&running)
        }
        Action::Down(names) => {
            // The registry is stopped last, because other engines pull from it.
            for engine in names.or(&Engine::ALL).into_iter().rev() {
                site.down(engine)?;
            }
            Ok(())
        }
        Action::Status(names) => {
            let running: Vec<_> = names
                .or(&Engine::ALL)
                .into_iter()
                .filter_map(|engine| site.status(engine))
                .collect();
            if running.is_empty() {
                println!("# no engine is up");
            }
            print(&running)
        }
    }
}

/// Prints shell commands. The first engine that sets a variable wins; the values of the others are
/// printed as comments.
fn print(running: &[Running]) -> Result<()> {
    let mut printed = BTreeMap::new();
    for engine in running {
        println!("# {} {}", engine.engine(), engine.version());
        for (name, value) in engine.variables()? {
            match printed.get(&name) {
                None => println!("export {name}={value}"),
                Some(first) if *first == value => {}
                Some(_) => println!("# export {name}={value}"),
            }
            printed.entry(name).or_insert(value);
        }
    }
    Ok(())
}
