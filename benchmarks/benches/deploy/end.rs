//! How soon tools notice the end of a stack's change, and with how many calls. Each call takes as long as over the internet, and the
//! change as long as in AWS.

use std::{
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_tests::{
    ministack::MiniStack,
    proxy::{Fault, Play, Proxy},
};

use crate::tools::{self, Code, Directory, NAME, Tool};

/// The delay of each call.
pub const DELAY: Duration = Duration::from_millis(40);

/// The minimal duration of a stack's resources. Each run takes one step longer than the last. All nine together cover the longest
/// polling interval, so that no tool polls at the right moment by chance.
pub const WORK: Duration = Duration::from_secs(18);
const STEP: Duration = Duration::from_millis(550);

/// From the end of the last resource to the end of the stack: 2.0 s in the example in AWS's documentation.
pub const TAIL: Duration = Duration::from_secs(2);

/// Parallel lanes, each with its own stand-in: runs mostly wait.
const LANES: u32 = 3;
/// Runs of each lane.
const ROUNDS: u32 = 3;

/// A tool, and the change that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    OursCreate,
    OursUpdate,
    /// boto3's waiter, which polls every two seconds.
    Boto,
    Aws,
    Sam,
}

impl Waiter {
    pub const ALL: [Self; 5] =
        [Self::OursCreate, Self::OursUpdate, Self::Boto, Self::Aws, Self::Sam];

    /// Independent sequences: `cbbootstrap` updates the stack that it created, and the poller needs that stack.
    const TURNS: [&[Self]; 3] =
        [&[Self::OursCreate, Self::OursUpdate, Self::Boto], &[Self::Aws], &[Self::Sam]];
}

/// The runs of one waiter.
#[derive(Debug, Default)]
pub struct EndOfStack {
    /// From the end of the change to the answer that shows it.
    pub noticed: Vec<Duration>,
    /// From the end of the change to the end of the process.
    pub ended: Vec<Duration>,
    /// Calls from the start of the change to the answer that shows its end.
    pub polls: Vec<usize>,
    /// Calls from the start of the change to the end of the process.
    pub calls: Vec<usize>,
}

/// All runs, in the order of [`Waiter::ALL`].
pub fn measure(code: &Code, changed: &Code) -> [EndOfStack; 5] {
    let lane = |lane: u32| {
        let aws = MiniStack::start();
        let mut runs: Vec<(Waiter, Run)> = Vec::new();
        for round in 0..ROUNDS {
            eprintln!("end of a stack: lane {lane}, round {round}");
            let work = WORK + STEP * (round * LANES + lane);
            for turn in 0..Waiter::TURNS.len() {
                let turn = Waiter::TURNS[(turn + lane as usize) % Waiter::TURNS.len()];
                tools::prepare(&aws);
                let scene = Scene::new(&aws);
                runs.extend(
                    turn.iter().map(|waiter| (*waiter, scene.run(*waiter, work, [code, changed]))),
                );
            }
        }
        runs
    };
    let runs: Vec<_> = thread::scope(|scope| {
        let lane = &lane;
        let lanes: Vec<_> = (0..LANES).map(|n| scope.spawn(move || lane(n))).collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("every run goes well")).collect()
    });
    Waiter::ALL.map(|waiter| {
        let mut end = EndOfStack::default();
        for (_, run) in runs.iter().filter(|(of, _)| *of == waiter) {
            end.noticed.push(run.noticed);
            end.ended.push(run.ended);
            end.polls.push(run.polls);
            end.calls.push(run.calls);
        }
        end
    })
}

#[derive(Debug)]
struct Run {
    noticed: Duration,
    ended: Duration,
    polls: usize,
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
        let directory = Directory::new(proxy.user());
        Self { proxy, directory }
    }

    fn run(&self, waiter: Waiter, work: Duration, [code, changed]: [&Code; 2]) -> Run {
        let before = self.proxy.calls().len();
        let trigger = match waiter {
            Waiter::OursCreate | Waiter::Aws | Waiter::Sam => {
                self.proxy.play(creation(work));
                self.directory.put(code);
                self.directory.deploy(match waiter {
                    Waiter::Aws => Tool::Aws,
                    Waiter::Sam => Tool::Sam,
                    _ => Tool::Ours,
                });
                "ExecuteChangeSet"
            }
            Waiter::OursUpdate => {
                self.proxy.play(update("ExecuteChangeSet", work));
                self.directory.put(changed);
                self.directory.deploy(Tool::Ours);
                "ExecuteChangeSet"
            }
            Waiter::Boto => {
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
        self.read_calls(before, trigger, work + TAIL, ended)
    }

    /// Evaluates the calls that the proxy received after the first `before` ones.
    fn read_calls(&self, before: usize, trigger: &str, length: Duration, ended: Instant) -> Run {
        let calls = self.proxy.calls().split_off(before);
        let trigger = format!("cloudformation:{trigger}");
        let begun = calls.iter().position(|call| call.name == trigger);
        let begun = begun.expect("the stack's change was begun");
        let answered = calls[begun].answered.expect("it was answered");
        // The play starts with that answer.
        let complete = answered + length;
        let after = &calls[begun + 1..];
        let polls = after.iter().position(|call| {
            let reads = ["DescribeStacks", "DescribeStackEvents"]
                .map(|read| format!("cloudformation:{read}"));
            reads.contains(&call.name) && call.answered.is_some_and(|at| at >= complete)
        });
        let polls = polls.expect("an answer shows the end");
        let noticed = after[polls].answered.expect("it was answered");
        Run {
            noticed: noticed - complete,
            ended: ended - complete,
            polls: polls + 1,
            calls: after.len(),
        }
    }
}

/// The stack's resources: name, type, and the start and end of their creation in percent of the time. The role takes longest.
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

/// The events of a creation that takes `work` and [`TAIL`].
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

/// The events of an update of the function that takes `work` and [`TAIL`].
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
