//! The scenarios of docs/scale.md.

use cbbootstrap_agent::pauses::Backoff;

use crate::{
    engine::{Scenario, Times},
    limits::{Limits, MINUTE, Micros, SECOND},
};

pub const HOUR: Micros = 60 * MINUTE;

/// - `cold_start` and `function`: docs/benchmarks.md, and 100 ms in which Lambda starts an environment, which is a usual value
/// - `call`: a usual value, as in the benchmark of the server
/// - `network`, `initialize` and `join`: usual values
pub const TIMES: Times = Times {
    network: 20_000,
    cold_start: 106_000,
    function: 490,
    call: 5_000,
    initialize: 5 * SECOND,
    join: 30 * SECOND,
};

/// One cluster whose nodes start within a second.
pub fn one_cluster(nodes: u16, limits: Limits, backoff: Backoff) -> Scenario {
    Scenario {
        clusters: 1,
        nodes,
        over: 0,
        spread: SECOND,
        limits,
        outage: None,
        backoff,
        times: TIMES,
        horizon: 24 * HOUR,
    }
}

/// Clusters of ten nodes that start over an hour, or one of many equal parts of them.
pub fn boots(clusters: u32, parts: u32, limits: Limits, backoff: Backoff) -> Scenario {
    Scenario {
        clusters: clusters / parts,
        nodes: 10,
        over: HOUR,
        spread: 30 * SECOND,
        limits: limits.divided(f64::from(parts)),
        outage: None,
        backoff,
        times: TIMES,
        horizon: 3 * HOUR,
    }
}

/// One cluster of ten nodes a second for an hour, with a table that throttles everything from the 20th to the 30th minute.
pub fn outage(parts: u32, limits: Limits, backoff: Backoff) -> Scenario {
    Scenario { outage: Some((20 * MINUTE, 30 * MINUTE)), ..boots(3_600, parts, limits, backoff) }
}
