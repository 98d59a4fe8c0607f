//! Runs one scenario on msgkit with the system's allocator; callgrind counts this binary.

fn main() -> anyhow::Result<()> {
    benchmarks::one_run::main(&[benchmarks::subjects::MSGKIT], None)
}
