//! Runs one scenario on one subject and counts its allocations. Apart from the others, because counting costs
//! instructions that would blur the other figures.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> anyhow::Result<()> {
    benchmarks::one_run::main(
        benchmarks::subjects::ALL,
        Some(|| {
            let stats = ALLOCATOR.stats();
            (stats.allocations + stats.reallocations) as u64
        }),
    )
}
