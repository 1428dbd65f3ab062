//! Where the time of a step goes, kernel by kernel.

use darts_ops::profile::Entry;

use super::measure::Ceiling;

/// The kernels of `steps` steps that took `seconds` in all, per step; what no kernel accounts for comes last.
pub(super) fn table(name: &str, entries: &[Entry], seconds: f64, steps: usize, ceiling: &Ceiling) -> String {
    let steps = steps as f64;
    let mut text = format!(
        "{name}: {:.1} ms a step\n\n| kernel | calls | ms | share | GFLOP/s | GB/s | over bound |\n|---|---|---|---|---|---|---|\n",
        1e3 * seconds / steps
    );
    for entry in entries {
        let bound = (entry.flops / ceiling.flops).max(entry.bytes / ceiling.bytes);
        text += &format!(
            "| {} | {:.0} | {:.1} | {:.1} % | {:.1} | {:.1} | {:.1} × |\n",
            entry.kernel,
            entry.calls as f64 / steps,
            1e3 * entry.seconds / steps,
            100.0 * entry.seconds / seconds,
            entry.flops / entry.seconds / 1e9,
            entry.bytes / entry.seconds / 1e9,
            entry.seconds / bound,
        );
    }
    let rest = seconds - entries.iter().map(|entry| entry.seconds).sum::<f64>();
    text + &format!(
        "| between kernels | – | {:.1} | {:.1} % | – | – | – |\n",
        1e3 * rest / steps,
        100.0 * rest / seconds
    )
}

#[cfg(test)]
mod tests {
    use super::{Ceiling, Entry, table};

    #[test]
    fn what_no_kernel_accounts_for_is_the_last_row() {
        let entry = Entry { kernel: "k", calls: 6, seconds: 1.5, flops: 3e9, bytes: 1e9 };
        let text = table("case", &[entry], 2.0, 2, &Ceiling { flops: 4e9, bytes: 1e9 });
        assert!(text.contains("| k | 3 | 750.0 | 75.0 % | 2.0 | 0.7 | 1.5 × |"), "{text}");
        assert!(text.ends_with("| between kernels | – | 250.0 | 25.0 % | – | – | – |\n"), "{text}");
    }
}
