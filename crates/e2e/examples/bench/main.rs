//! Coral beside its peers, on one machine, in one run: the rows of `docs/benchmarks.md`.
//!
//! Run by `cargo xtask bench`, which builds Coral as it is shipped, sets `CORAL_BIN` and puts the
//! peers on `PATH`. The only argument is the file to write.

#![allow(clippy::print_stdout, reason = "a benchmark says what it does")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]
#![allow(clippy::cast_precision_loss, reason = "figures of three digits")]

mod machine;
mod mirror;
mod server;
mod serving;
mod table;

use std::path::PathBuf;

use table::Row;

fn main() {
    let page = std::env::args_os().nth(1).map(PathBuf::from);
    let machine = machine::describe();
    println!("{machine}");
    let mut rows: Vec<Row> = Vec::new();
    for measure in [serving::measure, mirror::measure] {
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
