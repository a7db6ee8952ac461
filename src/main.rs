//! The `tidemill` binary: reads the command line, wires the parts, reports how it went.
fn main() {}
