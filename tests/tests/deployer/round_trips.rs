//! How many round trips of calls to AWS a command waits for, one after another.

use std::time::Duration;

use cbbootstrap_tests::{
    artifact,
    ministack::MiniStack,
    proxy::{Fault, Proxy, Rounds},
};

/// The delay of each call. It exceeds the program's own work between two calls, so that the rounds do not depend on time.
const DELAY: Duration = Duration::from_millis(400);

/// A command, and the most round trips that it may wait for.
type Limit<'a> = (&'a [&'a str], usize);

/// Runs the commands one after another in the same account.
fn check(limits: &[Limit<'_>]) {
    let aws = MiniStack::start();
    let proxy = Proxy::start(&aws);
    let user = proxy.user();
    for (args, most) in limits {
        proxy.reset();
        proxy.fault(|_| Some(Fault::Delay(DELAY)));
        let ended = user.run(args);
        let rounds = Rounds::new(&proxy.calls());
        assert!(rounds.count() <= *most, "{args:?} may wait for {most}:\n{rounds}{ended}");
        ended.ended_with(0);
    }
}

#[test]
fn deployments_wait_for_few_round_trips() {
    let [zip, other, third] = [1, 2, 3].map(artifact::small_zip_number);
    let deploy = ["deploy", "--yes", "--no-smoke", "--function-zip"];
    check(&[
        (&[&deploy[..], &[zip]].concat(), 9),
        (&[&deploy[..], &[other]].concat(), 9),
        (&[&deploy[..], &[third, "--code-only"]].concat(), 4),
        (&[&deploy[..], &[third, "--code-only"]].concat(), 2),
    ]);
}

#[test]
fn other_commands_wait_for_few_round_trips() {
    let [zip, other] = [1, 2].map(artifact::small_zip_number);
    check(&[
        (&["plan", "--function-zip", zip], 9),
        (&["deploy", "--yes", "--no-smoke", "--function-zip", zip], 9),
        (&["plan", "--function-zip", zip], 2),
        (&["plan", "--function-zip", other], 5),
        (&["status"], 3),
        (&["list"], 1),
        (&["cluster", "list"], 1),
        (&["logs"], 2),
        (&["open", "--print"], 1),
        (&["destroy", "--yes", "--delete-table", "--delete-artifacts"], 14),
    ]);
}
