//! Recipes: test, generate, bench.

fn main() {}
