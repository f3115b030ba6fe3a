//! The limits of AWS, as its documentation states them, and of the stack.

use cbbootstrap_report::stack;

/// Time since the start of a simulation, in microseconds.
pub type Micros = u64;

pub const SECOND: Micros = 1_000_000;
pub const MINUTE: Micros = 60 * SECOND;

/// What refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Stage,
    Account,
    Concurrency,
    Ramp,
    Table,
    Partition,
}

impl Limit {
    pub const ALL: [Self; 6] =
        [Self::Stage, Self::Account, Self::Concurrency, Self::Ramp, Self::Table, Self::Partition];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stage => "`ThrottlingRateLimit` of the stack",
            Self::Account => "API Gateway's requests a second of the account",
            Self::Concurrency => "Lambda's concurrency",
            Self::Ramp => "Lambda's scaling rate",
            Self::Table => "DynamoDB's throughput of the table",
            Self::Partition => "DynamoDB's throughput of a partition",
        }
    }
}

/// The settings of an account and a stack.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests a second to one API, and how many at once.
    pub stage: (f64, f64),
    /// The same for all APIs of a region.
    pub account: (f64, f64),
    /// Executions at once.
    pub concurrency: f64,
    /// New execution environments a second, and how many at once.
    pub ramp: (f64, f64),
    /// Write and read units a second that a new on-demand table has.
    pub table: (f64, f64),
    /// The most that it gets.
    pub table_quota: f64,
    /// Write and read units a second of a partition.
    pub partition: (f64, f64),
}

impl Limits {
    /// The stack's defaults in an account with default quotas, and a new table.
    ///
    /// - <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html>
    /// - <https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html>: 1,000 environments in 10 s
    /// - <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/on-demand-capacity-mode.html>
    /// - <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html>
    pub fn defaults() -> Self {
        let stage = ["ThrottlingRateLimit", "ThrottlingBurstLimit"].map(stack::default_of);
        Self {
            stage: stage.into(),
            account: (10_000.0, 5_000.0),
            concurrency: 1_000.0,
            ramp: (100.0, 1_000.0),
            table: (4_000.0, 12_000.0),
            table_quota: 40_000.0,
            partition: (1_000.0, 3_000.0),
        }
    }

    /// The limits for one of this many equal parts of all nodes.
    #[must_use]
    pub fn divided(self, parts: f64) -> Self {
        let both = |(a, b): (f64, f64)| (a / parts, b / parts);
        Self {
            stage: both(self.stage),
            account: both(self.account),
            concurrency: self.concurrency / parts,
            ramp: both(self.ramp),
            table: both(self.table),
            table_quota: self.table_quota / parts,
            partition: both(self.partition),
        }
    }
}

/// A token bucket, full at first.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Tokens a second.
    rate: f64,
    capacity: f64,
    tokens: f64,
    at: Micros,
}

impl Bucket {
    pub fn new((rate, capacity): (f64, f64)) -> Self {
        let capacity = capacity.max(1.0);
        Self { rate, capacity, tokens: capacity, at: 0 }
    }

    /// Whether it has this many tokens. One that needs more than fit takes a full bucket.
    fn has(&mut self, now: Micros, tokens: f64) -> bool {
        let passed = (now - self.at) as f64 / SECOND as f64;
        self.tokens = self.rate.mul_add(passed, self.tokens).min(self.capacity);
        self.at = now;
        tokens <= 0.0 || self.tokens >= tokens.min(self.capacity)
    }

    pub fn take(&mut self, now: Micros, tokens: f64) -> bool {
        let has = self.has(now, tokens);
        if has {
            self.tokens -= tokens;
        }
        has
    }
}

/// API Gateway. Throttled requests consume no tokens.
#[derive(Debug)]
pub struct Gateway {
    stage: Bucket,
    account: Bucket,
}

impl Gateway {
    pub fn new(limits: &Limits) -> Self {
        Self { stage: Bucket::new(limits.stage), account: Bucket::new(limits.account) }
    }

    pub fn accept(&mut self, now: Micros) -> Result<(), Limit> {
        if !self.stage.has(now, 1.0) {
            return Err(Limit::Stage);
        }
        if !self.account.take(now, 1.0) {
            return Err(Limit::Account);
        }
        self.stage.take(now, 1.0);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Cold,
    Warm,
}

/// The function's execution environments. They stay until the end, as if no pause between requests were longer than some minutes.
#[derive(Debug)]
pub struct Lambda {
    concurrency: f64,
    ramp: Bucket,
    environments: u32,
    busy: u32,
    pub most_busy: u32,
}

impl Lambda {
    pub fn new(limits: &Limits) -> Self {
        let concurrency = limits.concurrency.max(1.0);
        Self { concurrency, ramp: Bucket::new(limits.ramp), environments: 0, busy: 0, most_busy: 0 }
    }

    pub fn start(&mut self, now: Micros) -> Result<Start, Limit> {
        if f64::from(self.busy) + 1.0 > self.concurrency {
            return Err(Limit::Concurrency);
        }
        let start = if self.busy < self.environments {
            Start::Warm
        } else if self.ramp.take(now, 1.0) {
            self.environments += 1;
            Start::Cold
        } else {
            return Err(Limit::Ramp);
        };
        self.busy += 1;
        self.most_busy = self.most_busy.max(self.busy);
        Ok(start)
    }

    pub fn end(&mut self) {
        self.busy -= 1;
    }
}

/// Request units of writes and reads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Units {
    pub writes: f64,
    pub reads: f64,
}

/// An on-demand table.
///
/// It takes twice its previous peak at once, and the peak counts after half an hour. It has as many partitions as its throughput needs;
/// each has an equal part of the keys.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    writes: Bucket,
    reads: Bucket,
    partitions: Vec<(Bucket, Bucket)>,
    /// The units of each minute.
    minutes: Vec<Units>,
    /// All calls are throttled in this time.
    outage: Option<(Micros, Micros)>,
}

/// How long a peak takes to count.
const GROWTH_MINUTES: usize = 30;

impl Table {
    pub fn new(limits: &Limits, outage: Option<(Micros, Micros)>) -> Self {
        let mut table = Self {
            limits: *limits,
            writes: Bucket::new((0.0, 0.0)),
            reads: Bucket::new((0.0, 0.0)),
            partitions: Vec::new(),
            minutes: Vec::new(),
            outage,
        };
        table.set_throughput(limits.table);
        table
    }

    fn set_throughput(&mut self, (writes, reads): (f64, f64)) {
        (self.writes, self.reads) = (Bucket::new((writes, writes)), Bucket::new((reads, reads)));
        let (most_writes, most_reads) = self.limits.partition;
        let count = (writes / most_writes).max(reads / most_reads).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small")]
        let count = count as usize;
        let partition =
            (Bucket::new((most_writes, most_writes)), Bucket::new((most_reads, most_reads)));
        self.partitions = vec![partition; count];
    }

    /// Takes the units of one call for a key, which is a number from 0 to 1.
    pub fn take(&mut self, now: Micros, key: f64, units: Units) -> Result<(), Limit> {
        self.grow(now);
        if self.outage.is_some_and(|(from, to)| (from..to).contains(&now)) {
            return Err(Limit::Table);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small")]
        let number = (key * self.partitions.len() as f64) as usize;
        let (writes, reads) = &mut self.partitions[number];
        if !writes.has(now, units.writes) || !reads.has(now, units.reads) {
            return Err(Limit::Partition);
        }
        if !self.writes.has(now, units.writes) || !self.reads.has(now, units.reads) {
            return Err(Limit::Table);
        }
        for (bucket, units) in [
            (writes, units.writes),
            (reads, units.reads),
            (&mut self.writes, units.writes),
            (&mut self.reads, units.reads),
        ] {
            bucket.take(now, units);
        }
        let minute = self.minutes.last_mut().expect("growing adds the minute");
        minute.writes += units.writes;
        minute.reads += units.reads;
        Ok(())
    }

    /// At the start of a minute, doubles the peak until half an hour before.
    fn grow(&mut self, now: Micros) {
        let minutes = usize::try_from(now / MINUTE).unwrap_or(usize::MAX);
        if minutes < self.minutes.len() {
            return;
        }
        self.minutes.resize(minutes + 1, Units::default());
        let counted = &self.minutes[..minutes.saturating_sub(GROWTH_MINUTES)];
        let peak =
            |units: fn(&Units) -> f64| 2.0 * counted.iter().map(units).fold(0.0, f64::max) / 60.0;
        let (writes, reads) = (peak(|units| units.writes), peak(|units| units.reads));
        let (had_writes, had_reads) = (self.writes.capacity, self.reads.capacity);
        let quota = self.limits.table_quota;
        let grown = (writes.min(quota).max(had_writes), reads.min(quota).max(had_reads));
        if grown.0 > had_writes || grown.1 > had_reads {
            self.set_throughput(grown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new((2.0, 3.0));
        let table = [
            (0, 1.0, true),
            (0, 2.0, true),
            (0, 1.0, false),
            (SECOND / 4, 1.0, false),
            (SECOND / 2, 1.0, true),
            (10 * SECOND, 3.0, true),
            (10 * SECOND, 1.0, false),
            // More than it holds takes all, and has to be paid back.
            (12 * SECOND, 5.0, true),
            (13 * SECOND, 1.0, false),
            (14 * SECOND, 1.0, true),
        ];
        for (number, (at, tokens, expected)) in table.into_iter().enumerate() {
            assert_eq!(bucket.take(at, tokens), expected, "{number}");
        }
    }

    #[test]
    fn gateway_refuses_by_the_lower_limit() {
        let limits = Limits { stage: (1.0, 3.0), account: (1.0, 2.0), ..Limits::defaults() };
        let mut gateway = Gateway::new(&limits);
        let table = [
            (0, Ok(())),
            (0, Ok(())),
            (0, Err(Limit::Account)),
            (SECOND, Ok(())),
            (SECOND, Err(Limit::Account)),
        ];
        for (at, expected) in table {
            assert_eq!(gateway.accept(at), expected);
        }
        let mut gateway = Gateway::new(&Limits { stage: (1.0, 1.0), ..limits });
        assert_eq!([gateway.accept(0), gateway.accept(0)], [Ok(()), Err(Limit::Stage)]);
    }

    #[test]
    fn environments_start_within_the_ramp_and_are_reused() {
        let limits = Limits { concurrency: 3.0, ramp: (1.0, 2.0), ..Limits::defaults() };
        let mut lambda = Lambda::new(&limits);
        assert_eq!(lambda.start(0), Ok(Start::Cold));
        assert_eq!(lambda.start(0), Ok(Start::Cold));
        assert_eq!(lambda.start(0), Err(Limit::Ramp));
        lambda.end();
        assert_eq!(lambda.start(0), Ok(Start::Warm));
        assert_eq!(lambda.start(SECOND), Ok(Start::Cold));
        assert_eq!(lambda.start(100 * SECOND), Err(Limit::Concurrency));
        assert_eq!(lambda.most_busy, 3);
    }

    #[test]
    fn partition_has_less_than_the_table() {
        let mut table = Table::new(&Limits::defaults(), Some((5 * SECOND, 6 * SECOND)));
        let writes = |writes| Units { writes, reads: 0.0 };
        let reads = |reads| Units { writes: 0.0, reads };
        let calls = [
            (0, 0.1, writes(1_000.0), Ok(())),
            (0, 0.2, writes(1.0), Err(Limit::Partition)),
            (0, 0.3, writes(1_000.0), Ok(())),
            (0, 0.2, reads(3_000.0), Ok(())),
            (0, 0.2, reads(1.0), Err(Limit::Partition)),
            (SECOND, 0.2, writes(1_000.0), Ok(())),
            (5 * SECOND, 0.2, writes(1.0), Err(Limit::Table)),
            (6 * SECOND, 0.2, writes(1.0), Ok(())),
        ];
        for (number, (at, key, units, expected)) in calls.into_iter().enumerate() {
            assert_eq!(table.take(at, key, units), expected, "{number}");
        }
    }

    #[test]
    fn table_takes_twice_its_peak_half_an_hour_later() {
        let mut table = Table::new(&Limits::defaults(), None);
        let mut take = |second: u64, count: u32| {
            let keys = (0..count).map(|number| f64::from(number) / f64::from(count));
            let units = Units { writes: 1.0, reads: 0.0 };
            keys.filter(|key| table.take(second * SECOND, *key, units).is_ok()).count()
        };
        assert_eq!(take(0, 10_000), 4_000);
        for second in 1..60 {
            assert_eq!(take(second, 3_600), 3_600);
        }
        assert_eq!(take(30 * 60 - 1, 10_000), 4_000);
        // The peak was 3,607 a second in the first minute.
        assert_eq!(take(31 * 60, 10_000), 7_213);
    }
}
