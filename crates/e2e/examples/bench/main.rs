//! Coral beside its peers, on one machine, in one run: the rows of `docs/benchmarks.md`.
//!
//! Run by `cargo xtask bench`, which builds Coral as it is shipped, sets `CORAL_BIN` and puts the
//! peers on `PATH`. The first argument is `machine`, `cluster` or `build`, the second is the page to write.
//! `CORAL_BENCH_ONLY` limits `machine` to one of `serving`, `beside`, `growth`, `collecting`, `pull`,
//! `mirror` and `foreign`.

#![allow(clippy::print_stdout, reason = "a benchmark says what it does")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]
#![allow(clippy::cast_precision_loss, reason = "figures of three digits")]

mod beside;
mod build;
mod cluster;
mod collecting;
mod growth;
mod machine;
mod mirror;
mod pull;
mod server;
mod serving;
mod table;
#[path = "../../tests/registry/wire.rs"]
mod wire;

use std::path::{Path, PathBuf};

use table::Row;

type Measure = fn() -> Vec<Row>;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let part = arguments.next().unwrap_or_default();
    let page = arguments.next().map(PathBuf::from);
    match part.to_str() {
        Some("machine") => measure_machine(page.as_deref()),
        Some("cluster") => cluster::measure(page.as_deref()),
        Some("build") => build::measure(page.as_deref()),
        _ => panic!("the first argument is `machine`, `cluster` or `build`"),
    }
}

fn measure_machine(page: Option<&Path>) {
    let machine = machine::describe();
    println!("{machine}");
    let mut rows: Vec<Row> = Vec::new();
    let only = std::env::var("CORAL_BENCH_ONLY").ok();
    let parts: [(&str, Measure); 7] = [
        ("serving", serving::measure),
        ("beside", beside::measure),
        ("growth", growth::measure),
        ("collecting", collecting::measure),
        ("pull", pull::measure),
        ("mirror", mirror::measure),
        ("foreign", mirror::foreign::measure),
    ];
    for (name, measure) in parts {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        for row in measure() {
            println!("{}", row.line());
            rows.push(row);
        }
    }
    if let Some(page) = page {
        table::write(page, table::Part::Machine, &table::page(&machine, &rows));
    }
}
