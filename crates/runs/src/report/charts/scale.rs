//! Ranges, ticks and number formats of axes; no drawing.

/// A linear or logarithmic axis from values to units of the drawing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    /// An axis whose ends `low`, `high` lie at `from`, `to`. Equal ends are spread a little, so that a constant has a place.
    pub(super) fn new((low, high): (f64, f64), (from, to): (f64, f64), log: bool) -> Self {
        let log = log && low > 0.0;
        let (low, high) = match high - low {
            span if span > 1e-12 * high.abs().max(1e-300) => (low, high),
            _ if log => (low / 1.1, low * 1.1),
            _ => (low - 0.05 * low.abs().max(1e-3), low + 0.05 * low.abs().max(1e-3)),
        };
        Self { low, high, from, to, log }
    }

    /// The place of a value; values beyond the ends are put at them.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(1e-300).ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values within the ends, about `count` of them; `whole` asks for integers.
    pub(super) fn ticks(&self, count: usize, whole: bool) -> Vec<f64> {
        if self.log {
            let ticks = self.log_ticks();
            if ticks.len() >= 3 {
                return ticks;
            }
        }
        let step = round_step((self.high - self.low) / count.max(1) as f64);
        let step = if whole { step.max(1.0).ceil() } else { step };
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last.min(first + 50)).map(|tick| tick as f64 * step).collect()
    }

    /// 1, 2 and 5 times powers of ten, or the powers alone where those would be many.
    fn log_ticks(&self) -> Vec<f64> {
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let mantissas: &[f64] = if decades.clone().count() > 4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let all = decades.flat_map(|power| mantissas.iter().map(move |mantissa| mantissa * 10f64.powi(power)));
        all.filter(|tick| (self.low * (1.0 - 1e-9)..=self.high * (1.0 + 1e-9)).contains(tick)).collect()
    }
}

/// The next of 1, 2, 2.5 and 5 times a power of ten.
fn round_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.max(1e-300).log10().floor());
    let mantissa = rough / power;
    let round = [1.0, 2.0, 2.5, 5.0].into_iter().find(|round| mantissa <= round * (1.0 + 1e-9)).unwrap_or(10.0);
    round * power
}

/// As many decimals as tell ticks apart.
pub(super) fn tick_text(tick: f64, ticks: &[f64]) -> String {
    let step = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    let size = ticks.iter().fold(0f64, |most, tick| most.max(tick.abs()));
    if size >= 1e5 || (size > 0.0 && size < 1e-3) {
        return format!("{tick:.0e}").replace('-', "−");
    }
    // A step such as 0.25 needs one decimal more than its size says.
    let decimals = (0..6).find(|decimals| {
        let scaled = step * 10f64.powi(*decimals);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1.0)
    });
    let decimals = decimals.unwrap_or(2) as usize;
    let text = format!("{tick:.decimals$}");
    if text.trim_start_matches('-').chars().all(|char| matches!(char, '0' | '.')) {
        "0".to_owned()
    } else {
        text.replace('-', "−")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        let ticks = Scale::new((0.013, 0.97), (0.0, 100.0), false).ticks(5, false);
        assert_eq!(ticks.iter().map(|tick| tick_text(*tick, &ticks)).collect::<Vec<_>>(), ["0.2", "0.4", "0.6", "0.8"]);
        let epochs = Scale::new((0.0, 3.0), (0.0, 1.0), false).ticks(6, true);
        assert_eq!(epochs, [0.0, 1.0, 2.0, 3.0]);
        let quarters = [0.25, 0.5, 0.75];
        assert_eq!(tick_text(0.5, &quarters), "0.50");
    }

    #[test]
    fn a_constant_has_a_place_and_no_tick_is_lost_to_rounding() {
        for value in [0.0, 3.0, -2.0, 1e-9, 1e9] {
            let scale = Scale::new((value, value), (0.0, 100.0), false);
            assert!((1.0..99.0).contains(&scale.at(value)), "{value}: {}", scale.at(value));
            assert!(scale.ticks(5, false).len() < 60);
        }
    }

    #[test]
    fn logarithmic_ticks_are_one_two_five() {
        let ticks = Scale::new((40.0, 900.0), (0.0, 1.0), true).ticks(5, false);
        assert_eq!(ticks, [50.0, 100.0, 200.0, 500.0]);
    }
}
