//! Trains a model; without an argument, the quickstart.

fn main() {}
