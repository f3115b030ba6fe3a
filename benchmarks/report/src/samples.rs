//! Statistics of repeated measurements.

use std::time::Duration;

/// The smallest sample that at least this many percent of all do not exceed (nearest rank), or zero without samples.
pub fn percentile<T: Copy + Ord + Default>(samples: &[T], percent: usize) -> T {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The middle sample, or the lower one of the two in the middle.
pub fn median<T: Copy + Ord + Default>(samples: &[T]) -> T {
    percentile(samples, 50)
}

/// Milliseconds as [`number`] formats them.
pub fn ms(duration: Duration) -> String {
    number(duration.as_secs_f64() * 1000.0)
}

/// Seconds as [`number`] formats them.
pub fn seconds(duration: Duration) -> String {
    number(duration.as_secs_f64())
}

/// Two decimals below 1, one below 100, none from there on: `0.24`, `3.1`, `342`.
pub fn number(value: f64) -> String {
    match value {
        small if small < 0.995 => format!("{small:.2}"),
        medium if medium < 99.5 => format!("{medium:.1}"),
        large => format!("{large:.0}"),
    }
}

/// In units of 10⁶ bytes.
#[expect(clippy::cast_precision_loss, reason = "it is rounded anyway")]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<_> = (1..=10).map(Duration::from_millis).collect();
        assert_eq!(median(&samples), Duration::from_millis(5));
        assert_eq!(percentile(&samples, 99), Duration::from_millis(10));
        assert_eq!(percentile(&samples, 0), Duration::from_millis(1));
        assert_eq!(median::<Duration>(&[]), Duration::ZERO);
    }

    #[test]
    fn numbers_have_two_or_three_digits() {
        let shown = [0.0, 0.237, 0.996, 3.16, 99.4, 99.6, 341.7].map(number);
        assert_eq!(shown, ["0.00", "0.24", "1.0", "3.2", "99.4", "100", "342"]);
    }
}
