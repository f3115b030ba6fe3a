//! Statistics of repeated measurements.

use std::time::Duration;

/// Durations of one operation.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// The smallest sample that at least this many percent of all do not exceed (nearest rank), or zero without samples.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

impl IntoIterator for Samples {
    type Item = Duration;
    type IntoIter = std::vec::IntoIter<Duration>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Extend<Duration> for Samples {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, samples: I) {
        self.0.extend(samples);
    }
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

/// The middle value, or the lower one of the two in the middle.
pub fn median<T: Copy + Ord>(values: impl IntoIterator<Item = T>) -> T {
    let mut sorted: Vec<_> = values.into_iter().collect();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) / 2]
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
        let samples: Samples = (1..=10).map(Duration::from_millis).collect();
        assert_eq!(samples.median(), Duration::from_millis(5));
        assert_eq!(samples.percentile(99), Duration::from_millis(10));
        assert_eq!(samples.percentile(0), Duration::from_millis(1));
        assert_eq!(Samples::default().median(), Duration::ZERO);
    }

    #[test]
    fn numbers_have_two_or_three_digits() {
        let shown = [0.0, 0.237, 0.996, 3.16, 99.4, 99.6, 341.7].map(number);
        assert_eq!(shown, ["0.00", "0.24", "1.0", "3.2", "99.4", "100", "342"]);
    }
}
