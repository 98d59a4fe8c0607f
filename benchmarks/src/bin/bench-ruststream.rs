//! Runs one scenario on the peer with the system's allocator; callgrind counts this binary.

fn main() -> anyhow::Result<()> {
    benchmarks::one_run::main(&[benchmarks::subjects::PEER], None)
}
