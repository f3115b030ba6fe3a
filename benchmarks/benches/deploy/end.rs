//! How soon the end of a stack's change is noticed, and with how many calls, where each call takes as long as one over the
//! internet, and the stack as long as one in AWS.

use std::{
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_benchmarks::Samples;
use cbbootstrap_tests::{
    ministack::MiniStack,
    proxy::{Fault, Play, Proxy},
};

use crate::tools::{self, Code, Directory, NAME, Tool};

/// What each call takes longer.
pub const DELAY: Duration = Duration::from_millis(40);

/// What a stack's resources take at least; each run has one that takes a little longer than the last, over all nine as much as
/// the longest steps of a tool that looks in equal ones, so that none fit by chance.
pub const WORK: Duration = Duration::from_secs(18);
const STEP: Duration = Duration::from_millis(550);

/// Between the last resource's end and the stack's: 2.0 s in the example of events in AWS's documentation.
pub const TAIL: Duration = Duration::from_secs(2);

/// So many at once, each with a stand-in of its own, for they mostly wait; and so often each.
const LANES: u32 = 3;
const ROUNDS: u32 = 3;

/// Who waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    OursCreate,
    OursUpdate,
    /// boto3's waiter, two seconds apart.
    Poller,
    Aws,
    Sam,
}

impl Wait {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::OursCreate, Self::OursUpdate, Self::Poller, Self::Aws, Self::Sam];

    /// Those that need nothing of each other, in order: ours updates what it has created, and that is there for the poller.
    const TURNS: [&[Self]; 3] =
        [&[Self::OursCreate, Self::OursUpdate, Self::Poller], &[Self::Aws], &[Self::Sam]];
}

/// What was seen of the runs of one of them.
#[derive(Debug, Default)]
pub struct Seen {
    /// From the stack's end to the answer that tells it.
    pub noticed: Samples,
    /// From the stack's end to the end of the process.
    pub ended: Samples,
    /// Calls from the beginning of the stack's change on: to that answer, and to the end of the process.
    pub looks: Vec<usize>,
    pub calls: Vec<usize>,
}

/// All runs, in the order of [`Wait::ALL`].
pub fn measure(code: &Code, changed: &Code) -> [Seen; 5] {
    let lane = |lane: u32| {
        let aws = MiniStack::start();
        let mut seen: Vec<(Wait, Run)> = Vec::new();
        for round in 0..ROUNDS {
            eprintln!("end of a stack: lane {lane}, round {round}");
            let work = WORK + STEP * (round * LANES + lane);
            for turn in 0..Wait::TURNS.len() {
                let turn = Wait::TURNS[(turn + lane as usize) % Wait::TURNS.len()];
                tools::prepare(&aws);
                let scene = Scene::new(&aws);
                seen.extend(
                    turn.iter().map(|wait| (*wait, scene.run(*wait, work, [code, changed]))),
                );
            }
        }
        seen
    };
    let runs: Vec<_> = thread::scope(|scope| {
        let lane = &lane;
        let lanes: Vec<_> = (0..LANES).map(|n| scope.spawn(move || lane(n))).collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("every run goes well")).collect()
    });
    Wait::ALL.map(|wait| {
        let mut seen = Seen::default();
        for (_, run) in runs.iter().filter(|(of, _)| *of == wait) {
            seen.noticed.push(run.noticed);
            seen.ended.push(run.ended);
            seen.looks.push(run.looks);
            seen.calls.push(run.calls);
        }
        seen
    })
}

/// The number in the middle.
pub fn median(counts: &[usize]) -> usize {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) / 2]
}

#[derive(Debug)]
struct Run {
    noticed: Duration,
    ended: Duration,
    looks: usize,
    calls: usize,
}

/// A stand-in behind a slow network.
struct Scene {
    proxy: Proxy,
    directory: Directory,
}

impl Scene {
    fn new(aws: &MiniStack) -> Self {
        let proxy = Proxy::start(aws);
        proxy.fault(|_| Some(Fault::Delay(DELAY)));
        let directory = Directory::of(proxy.user());
        Self { proxy, directory }
    }

    fn run(&self, wait: Wait, work: Duration, [code, changed]: [&Code; 2]) -> Run {
        let before = self.proxy.calls().len();
        let trigger = match wait {
            Wait::OursCreate | Wait::Aws | Wait::Sam => {
                self.proxy.play(creation(work));
                self.directory.put(code);
                self.directory.deploy(match wait {
                    Wait::Aws => Tool::Aws,
                    Wait::Sam => Tool::Sam,
                    _ => Tool::Ours,
                });
                "ExecuteChangeSet"
            }
            Wait::OursUpdate => {
                self.proxy.play(update("ExecuteChangeSet", work));
                self.directory.put(changed);
                self.directory.deploy(Tool::Ours);
                "ExecuteChangeSet"
            }
            Wait::Poller => {
                self.proxy.play(update("UpdateStack", work).instead());
                self.proxy.boto(&format!(
                    "(lambda c: [c.update_stack(StackName='{NAME}', UsePreviousTemplate=True), \
                     c.get_waiter('stack_update_complete').wait(StackName='{NAME}', WaiterConfig={{'Delay': 2}})])\
                     (client('cloudformation'))"
                ));
                "UpdateStack"
            }
        };
        let ended = Instant::now();
        self.seen(before, trigger, work + TAIL, ended)
    }

    /// What the proxy saw since so many calls.
    fn seen(&self, before: usize, trigger: &str, length: Duration, ended: Instant) -> Run {
        let calls = self.proxy.calls().split_off(before);
        let trigger = format!("cloudformation:{trigger}");
        let begun = calls.iter().position(|call| call.name == trigger);
        let begun = begun.expect("the stack's change was begun");
        let answered = calls[begun].answered.expect("it was answered");
        // The play begins with that answer.
        let complete = answered + length;
        let after = &calls[begun + 1..];
        let tells = after.iter().position(|call| {
            let looks = ["DescribeStacks", "DescribeStackEvents"]
                .map(|look| format!("cloudformation:{look}"));
            looks.contains(&call.name) && call.answered.is_some_and(|at| at >= complete)
        });
        let tells = tells.expect("an answer told the end");
        let told = after[tells].answered.expect("it was answered");
        Run {
            noticed: told - complete,
            ended: ended - complete,
            looks: tells + 1,
            calls: after.len(),
        }
    }
}

/// Our stack's resources as they come into being: name, type, and from and to which part of the time, in percent. The role takes
/// by far the longest.
const RESOURCES: [(&str, &str, u32, u32); 12] = [
    ("HttpApi", "AWS::ApiGatewayV2::Api", 2, 7),
    ("FunctionLogs", "AWS::Logs::LogGroup", 2, 9),
    ("AccessLogs", "AWS::Logs::LogGroup", 2, 9),
    ("ErrorAlarm", "AWS::CloudWatch::Alarm", 9, 13),
    ("Stage", "AWS::ApiGatewayV2::Stage", 11, 16),
    ("Role", "AWS::IAM::Role", 11, 63),
    ("Function", "AWS::Lambda::Function", 65, 86),
    ("Dashboard", "AWS::CloudWatch::Dashboard", 88, 91),
    ("ThrottleAlarm", "AWS::CloudWatch::Alarm", 88, 92),
    ("Integration", "AWS::ApiGatewayV2::Integration", 88, 92),
    ("Permission", "AWS::Lambda::Permission", 88, 94),
    ("Route", "AWS::ApiGatewayV2::Route", 94, 100),
];

/// The creation of our stack, whose resources take so long.
fn creation(work: Duration) -> Play {
    let mut scenes: Vec<_> = RESOURCES
        .iter()
        .flat_map(|(name, kind, from, to)| {
            [(*from, *name, *kind, "CREATE_IN_PROGRESS"), (*to, *name, *kind, "CREATE_COMPLETE")]
        })
        .collect();
    scenes.sort_by_key(|scene| scene.0);
    let mut play = Play::on("ExecuteChangeSet").stack("CREATE_IN_PROGRESS");
    let mut before = 0;
    for (at, name, kind, status) in scenes {
        let pause = work * (at - before) / 100;
        play = play.after(pause).resource(name, kind, status);
        before = at;
    }
    play.after(TAIL).stack("CREATE_COMPLETE")
}

/// The update of its function, which takes so long.
fn update(operation: &str, work: Duration) -> Play {
    let (name, kind) = ("Function", "AWS::Lambda::Function");
    Play::on(operation)
        .stack("UPDATE_IN_PROGRESS")
        .after(work / 20)
        .resource(name, kind, "UPDATE_IN_PROGRESS")
        .after(work * 19 / 20)
        .resource(name, kind, "UPDATE_COMPLETE")
        .after(TAIL * 3 / 4)
        .stack("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
        .after(TAIL / 4)
        .stack("UPDATE_COMPLETE")
}
