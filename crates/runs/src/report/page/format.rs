//! Numbers, times and sizes as people read them; no markup.

use serde_json::Value;

/// 12345678 as "12,345,678".
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A perplexity: with two decimals where it is so small that they count.
pub(super) fn perplexity(value: f64) -> String {
    if value < 20.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

/// Seconds as "42 s", "3 min 20 s", "5 h 7 min" or "2 d 3 h".
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// Bytes in binary units.
pub(super) fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.*} {}", usize::from(value < 100.0), UNITS[unit]) }
}

/// A count in millions: "3.35 M"; thousands below a million: "412 k".
pub(super) fn millions(value: f64) -> String {
    if value >= 1e8 {
        format!("{:.0} M", value / 1e6)
    } else if value >= 1e6 {
        format!("{:.2} M", value / 1e6)
    } else if value >= 1e4 {
        format!("{:.0} k", value / 1e3)
    } else {
        format!("{value:.0}")
    }
}

/// Mean and sample standard deviation; no deviation for fewer than two values, nothing for none.
pub(super) fn mean_and_deviation(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let count = values.len() as f64;
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count;
    let deviation = (values.len() > 1)
        .then(|| (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt());
    Some((mean, deviation))
}

/// "2.76 ± 0.09 % (n = 4)".
pub(super) fn mean_text(values: &[f64], decimals: usize, unit: &str) -> Option<String> {
    let (mean, deviation) = mean_and_deviation(values)?;
    let deviation = deviation.map(|deviation| format!(" ± {deviation:.decimals$}")).unwrap_or_default();
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    Some(format!("{mean:.decimals$}{deviation}{unit} (n = {})", values.len()))
}

/// A JSON value on one line, without quotes around a text.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) if whole >= 100_000 => grouped(whole),
            (None, Some(real)) if real != 0.0 && real.abs() < 1e-3 => format!("{real:e}"),
            _ => number.to_string(),
        },
        // A thousand classes would be a page of their own.
        Value::Array(items) if items.len() > MOST_ITEMS => {
            let first: Vec<String> = items[..MOST_ITEMS].iter().map(self::value).collect();
            format!("{}, … ({} in all)", first.join(", "), grouped(items.len() as u64))
        }
        other => other.to_string(),
    }
}

/// Items of a list that are shown.
const MOST_ITEMS: usize = 20;

/// Seconds since 1970 as "2026-11-24 10:15 UTC" (the civil calendar after Hinnant's days algorithm).
pub(super) fn utc(seconds: u64) -> String {
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(3_349_342), "3,349,342");
        assert_eq!(grouped(12), "12");
        assert_eq!(duration(7.25), "7.2 s");
        assert_eq!(duration(200.0), "3 min 20 s");
        assert_eq!(duration(90_000.0), "1 d 1 h");
        assert_eq!(bytes(3.0 * 1024.0 * 1024.0 * 1024.0), "3.0 GiB");
        assert_eq!(millions(3_349_342.0), "3.35 M");
        assert_eq!(value(&serde_json::json!(0.0003)), "3e-4");
        assert_eq!(value(&serde_json::json!([1, 2])), "[1,2]");
        let many: Vec<usize> = (0..1000).collect();
        let shown = value(&serde_json::json!(many));
        assert!(shown.starts_with("0, 1, 2, ") && shown.ends_with("19, … (1,000 in all)"), "{shown}");
    }

    #[test]
    fn deviation_is_that_of_a_sample() {
        assert_eq!(mean_text(&[1.0, 2.0, 3.0], 2, "%").unwrap(), "2.00 ± 1.00 % (n = 3)");
        assert_eq!(mean_text(&[2.5], 1, "").unwrap(), "2.5 (n = 1)");
        assert_eq!(mean_text(&[], 1, ""), None);
    }

    #[test]
    fn dates_match_known_days() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_795_515_300), "2026-11-24 10:15 UTC");
    }
}
