//! Coral beside its peers, on one machine, in one run: the rows of `docs/benchmarks.md`.
//!
//! Run by `cargo xtask bench`, which builds Coral as it is shipped, sets `CORAL_BIN` and puts the
//! peers on `PATH`. The argument is the file to write; `CORAL_BENCH_ONLY` is one part of it, for who
//! works on that: `serving`, `growth` or `mirror`.

#![allow(clippy::print_stdout, reason = "a benchmark says what it does")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]
#![allow(clippy::cast_precision_loss, reason = "figures of three digits")]

mod beside;
mod growth;
mod machine;
mod mirror;
mod server;
mod serving;
mod table;
#[path = "../../tests/registry/wire.rs"]
mod wire;

use std::path::PathBuf;

use table::Row;

type Measure = fn() -> Vec<Row>;

fn main() {
    let page = std::env::args_os().nth(1).map(PathBuf::from);
    let machine = machine::describe();
    println!("{machine}");
    let mut rows: Vec<Row> = Vec::new();
    let only = std::env::var("CORAL_BENCH_ONLY").ok();
    let parts: [(&str, Measure); 4] = [
        ("serving", serving::measure),
        ("beside", beside::measure),
        ("growth", growth::measure),
        ("mirror", mirror::measure),
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
        std::fs::write(&page, table::page(&machine, &rows)).unwrap();
        println!("wrote {}", page.display());
    }
}
