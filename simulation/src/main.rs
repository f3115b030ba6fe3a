use cbbootstrap_agent::pauses::Backoff;
use cbbootstrap_simulation::{
    engine::{Scenario, Simulation},
    limits::Limits,
    scenarios::*,
};
use std::time::{Duration, Instant};
fn show(name: &str, s: Scenario) {
    let t = Instant::now();
    let mut o = Simulation::run(s, 1);
    let total = o.total();
    println!(
        "{name}: {:.1}s place p50 {:?} p99 {:?} max {:?} known {} of {} members {} unlisted {} stopped {} inits {} takeovers {} ended {:.0}s req {} 429 {} 503 {} cold {} busy {} units {:?} ${:.2} first {:?} ref {:?}",
        t.elapsed().as_secs_f64(),
        o.place_known(0.5),
        o.place_known(0.99),
        o.place_known(1.0),
        o.places.len(),
        o.nodes,
        o.members,
        o.unlisted,
        o.stopped,
        o.initialisations,
        o.takeovers,
        o.ended as f64 / 1e6,
        total.requests,
        total.answers_429,
        total.answers_503,
        o.cold_starts,
        o.most_busy,
        o.units,
        o.dollars(),
        o.first_limit(),
        o.refusals
    );
}
fn main() {
    let d = Limits::defaults();
    let raised = Limits { stage: (10_000.0, 5_000.0), ..d };
    let open = Limits {
        stage: (40_000.0, 20_000.0),
        account: (40_000.0, 20_000.0),
        table: (40_000.0, 40_000.0),
        ..d
    };
    let s = Duration::from_secs;
    let policies = [
        ("constant", Backoff::CONSTANT),
        ("x2 cap 15 full", Backoff { growth: 2.0, longest: s(15), jitter: (0.0, 1.0) }),
        ("x2 cap 30 half", Backoff { growth: 2.0, longest: s(30), jitter: (0.5, 1.0) }),
        ("x2 cap 30 full", Backoff { growth: 2.0, longest: s(30), jitter: (0.0, 1.0) }),
        ("x1.5 cap 30 full", Backoff { growth: 1.5, longest: s(30), jitter: (0.0, 1.0) }),
        ("x2 cap 60 full", Backoff { growth: 2.0, longest: s(60), jitter: (0.0, 1.0) }),
        ("x2 cap 120 full", Backoff { growth: 2.0, longest: s(120), jitter: (0.0, 1.0) }),
    ];
    let what = std::env::args().nth(1).unwrap();
    match what.as_str() {
        "small" => {
            for (n, b) in policies {
                show(&format!("256 {n}"), one_cluster(256, d, b));
                show(&format!("1000 {n}"), one_cluster(1000, d, b));
                show(&format!("1000 raised {n}"), one_cluster(1000, raised, b));
                show(&format!("outage {n}"), outage(d, b));
                show(&format!("outage raised {n}"), outage(raised, b));
            }
        }
        "a1" => {
            for (n, b) in policies {
                show(&format!("a1 {n}"), boots(1_000_000, 1000, d, b));
            }
        }
        "a2" => {
            for (n, b) in policies {
                show(&format!("a2 {n}"), boots(1_000_000, 100, raised, b));
            }
        }
        "open" => show("open", boots(1_000_000, 1, open, Backoff::CONSTANT)),
        "open10" => show("open", boots(1_000_000, 10, open, Backoff::CONSTANT)),
        _ => {}
    }
}
