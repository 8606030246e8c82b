//! Recipes: what continuous integration runs and what a developer types.
//!
//! `cargo xtask test` is a list of stages (`test.rs`), each a plain function over a [`Workspace`].
//! Nothing here is part of the product.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a recipe talks to the person who typed it"
)]

mod bench;
mod builder;
mod cluster;
mod command;
mod generate;
mod screenshots;
mod stage;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Recipes of the project")]
struct Arguments {
    #[command(subcommand)]
    recipe: Recipe,
}

#[derive(Subcommand)]
enum Recipe {
    /// Run every check and test; the last line counts the stages.
    Test(test::TestArguments),
    /// Measure Coral beside its peers, and write docs/benchmarks.md.
    Bench(bench::BenchArguments),
    /// A real Kubernetes on this machine: up, down, kubectl, crash, boot, cut, join (as root).
    Cluster(cluster::ClusterArguments),
    /// Write the image of the builder that Coral offers, as an OCI archive (as root).
    Builder(builder::BuilderArguments),
    /// Write the files that are made from the code, or check that they are current.
    Generate(generate::GenerateArguments),
    /// Take the pictures of the documentation from the running program.
    Screenshots,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = Workspace::find().and_then(|workspace| match arguments.recipe {
        Recipe::Test(arguments) => test::run(&workspace, &arguments),
        Recipe::Bench(arguments) => bench::bench(&workspace, &arguments),
        Recipe::Cluster(arguments) => cluster::run(&workspace, &arguments),
        Recipe::Builder(arguments) => builder::write(&workspace, &arguments),
        Recipe::Generate(arguments) => generate::run(&workspace, &arguments),
        Recipe::Screenshots => screenshots::take(&workspace),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
