//! Every convolution kernel at the paper's search sizes, beside what the machine can do. Refuses to be statistics: medians of
//! a fraction of a second each, good enough to see where a kernel stands.
//!
//! ```text
//! cargo run --release -p darts-ops --example kernels
//! ```

use darts_ops::roofline::{copy_bandwidth, fma_rate, kernel_benches};
use darts_ops::simd::InstructionSet;

fn main() {
    let threads = rayon::current_num_threads();
    let (rate, bandwidth) = (fma_rate(threads) / 1e9, copy_bandwidth(threads) / 1e9);
    let set = InstructionSet::selected().name();
    println!("{threads} threads, {set}: {rate:.0} GFLOP/s, copy {bandwidth:.1} GB/s\n");
    println!(
        "{:<46} {:>9} {:>9} {:>8} {:>5} {:>7} {:>5}",
        "kernel", "median ms", "best ms", "GFLOP/s", "%", "GB/s", "%"
    );
    for result in kernel_benches() {
        let (flops, bytes) = (result.gflops(), result.gigabytes_per_second());
        println!(
            "{:<46} {:>9.3} {:>9.3} {flops:>8.1} {:>5.0} {bytes:>7.1} {:>5.0}",
            result.name,
            1e3 * result.seconds,
            1e3 * result.fastest,
            100.0 * flops / rate,
            100.0 * bytes / bandwidth
        );
    }
}
