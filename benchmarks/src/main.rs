//! Runs one scenario on one subject with the system's allocator; callgrind counts this binary.

fn main() -> anyhow::Result<()> {
    benchmarks::one_run::main(None)
}
