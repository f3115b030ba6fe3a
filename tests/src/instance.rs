//! An EC2 instance as its agent sees it: the metadata service, version 2 only, and the calls to its Auto Scaling group.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::json;

use crate::{
    pattern::pattern,
    server::{Request, Stub},
};

const ID: &str = "i-0123456789abcdef0";
const GROUP: &str = "couchbase & co";
pub const HOOK: &str = "leave";
const TOKEN: &str = "AQAEAF-token";
const SESSION: &str = "session/token+==";

/// An instance in a group with one lifecycle hook for terminations.
pub struct Instance {
    metadata: Stub,
    group: Stub,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The values below `latest/meta-data`.
    values: BTreeMap<String, String>,
    /// Requests get 503.
    fails: bool,
    /// The next request for this value gets 503.
    fails_once: Option<String>,
    /// The actions that the group carried out.
    actions: Vec<String>,
    /// The hook waits.
    is_waiting: bool,
    /// The next calls to complete the hook that are throttled.
    throttled: u32,
    /// The names of more hooks.
    more_hooks: Vec<String>,
}

impl Instance {
    pub fn start() -> Self {
        let credentials = json!({
            "Code": "Success", "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "secret", "Token": SESSION,
            "Expiration": "2099-01-01T00:00:00Z",
        });
        let state = Arc::new(Mutex::new(State {
            values: [
                ("instance-id", ID),
                ("placement/region", "us-east-1"),
                ("autoscaling/target-lifecycle-state", "InService"),
                ("iam/security-credentials/", "the-role"),
                ("iam/security-credentials/the-role", &credentials.to_string()),
            ]
            .map(|(path, value)| (path.to_owned(), value.to_owned()))
            .into(),
            ..State::default()
        }));
        let (shared, of_group) = (Arc::clone(&state), Arc::clone(&state));
        Self {
            metadata: Stub::start(move |request| answer(&mut lock(&shared), request)),
            group: Stub::start(move |request| act(&mut lock(&of_group), request)),
            state,
        }
    }

    /// The variables of an agent on this instance.
    pub fn variables(&self) -> [(&str, &str); 3] {
        [
            ("AWS_EC2_METADATA_DISABLED", "false"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.metadata.url),
            ("AWS_ENDPOINT_URL_AUTO_SCALING", &self.group.url),
        ]
    }

    /// Sets a value of the metadata.
    pub fn set(&self, path: &str, value: &str) {
        lock(&self.state).values.insert(path.to_owned(), value.to_owned());
    }

    pub fn remove(&self, path: &str) {
        lock(&self.state).values.remove(path);
    }

    /// Makes the metadata service answer with 503, or properly again.
    pub fn fail(&self, fails: bool) {
        lock(&self.state).fails = fails;
    }

    /// Makes the metadata service answer the next request for a value with 503.
    pub fn fail_once(&self, path: &str) {
        lock(&self.state).fails_once = Some(path.to_owned());
    }

    /// The group begins to terminate the instance, and its hook waits.
    pub fn terminate(&self) {
        lock(&self.state).is_waiting = true;
        self.set("autoscaling/target-lifecycle-state", "Terminated");
    }

    /// The group moves the instance to its warm pool, and its hook waits.
    pub fn move_to_warm_pool(&self) {
        lock(&self.state).is_waiting = true;
        self.set("autoscaling/target-lifecycle-state", "Warmed:Stopped");
    }

    /// Throttles the next calls to complete the hook.
    pub fn throttle(&self, calls: u32) {
        lock(&self.state).throttled = calls;
    }

    /// Adds another lifecycle hook for terminations.
    pub fn add_hook(&self, name: &str) {
        lock(&self.state).more_hooks.push(name.to_owned());
    }

    /// The actions that the group carried out, without descriptions.
    pub fn actions(&self) -> Vec<String> {
        lock(&self.state).actions.clone()
    }

    pub fn is_complete(&self) -> bool {
        self.actions().iter().any(|action| action == "CompleteLifecycleAction")
    }

    /// How often the instance or the group's hooks were described.
    pub fn descriptions(&self) -> usize {
        let requests = self.group.requests();
        requests.iter().filter(|request| request.body.starts_with("Action=Describe")).count()
    }

    /// The requests to the metadata service.
    pub fn metadata_requests(&self) -> Vec<Request> {
        self.metadata.requests()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(state: &mut State, request: &Request) -> (u16, String) {
    if state.fails {
        return (503, String::new());
    }
    if request.method == "PUT" && request.path == "/latest/api/token" {
        let asked = request.header("x-aws-ec2-metadata-token-ttl-seconds").is_some();
        return (if asked { 200 } else { 400 }, TOKEN.to_owned());
    }
    if request.header("x-aws-ec2-metadata-token") != Some(TOKEN) {
        return (401, String::new());
    }
    let path = request.path.strip_prefix("/latest/meta-data/").unwrap_or_default();
    if state.fails_once.take_if(|failing| failing == path).is_some() {
        return (503, String::new());
    }
    match state.values.get(path) {
        Some(value) => (200, value.clone()),
        None => (404, "<html>Not Found</html>".to_owned()),
    }
}

/// Auto Scaling's query protocol. Requests must be signed with the instance's credentials, and name the instance.
fn act(state: &mut State, request: &Request) -> (u16, String) {
    let refuse = |status, code: &str, message: &str| {
        let error = format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        );
        (status, error)
    };
    let signature = pattern(
        r"^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\d{8}/us-east-1/autoscaling/aws4_request, SignedHeaders=host;x-amz-date;x-amz-security-token, Signature=[0-9a-f]{64}$",
    );
    let header = |name| request.header(name).unwrap_or_default();
    let is_signed = signature.is_match(header("authorization"))
        && pattern(r"^\d{8}T\d{6}Z$").is_match(header("x-amz-date"))
        && header("x-amz-security-token") == SESSION;
    if !is_signed {
        return refuse(403, "MissingAuthenticationToken", "the request is not signed as expected");
    }
    let is_form = header("content-type") == "application/x-www-form-urlencoded";
    if (request.method.as_str(), request.path.as_str(), is_form) != ("POST", "/", true) {
        return refuse(400, "InvalidAction", "not a request in the query protocol");
    }
    let form: BTreeMap<String, String> =
        form_urlencoded::parse(request.body.as_bytes()).into_owned().collect();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    if field("Version") != "2011-01-01" {
        return refuse(400, "InvalidVersion", "the version is wrong");
    }
    let xml_group = GROUP.replace('&', "&amp;");
    let action = field("Action");
    match action {
        "DescribeAutoScalingInstances" if field("InstanceIds.member.1") == ID => (
            200,
            format!(
                "<R><AutoScalingInstances><member><InstanceId>{ID}</InstanceId><AutoScalingGroupName>{xml_group}</AutoScalingGroupName></member></AutoScalingInstances></R>"
            ),
        ),
        "DescribeLifecycleHooks" if field("AutoScalingGroupName") == GROUP => {
            let hook = |name: &str, transition: &str| {
                format!(
                    "<member><AutoScalingGroupName>{xml_group}</AutoScalingGroupName><LifecycleHookName>{name}</LifecycleHookName><LifecycleTransition>autoscaling:EC2_INSTANCE_{transition}</LifecycleTransition></member>"
                )
            };
            let more = state.more_hooks.iter().map(|name| hook(name, "TERMINATING"));
            let hooks = [hook("start", "LAUNCHING"), hook(HOOK, "TERMINATING")];
            let hooks: String = hooks.into_iter().chain(more).collect();
            (200, format!("<R><LifecycleHooks>{hooks}</LifecycleHooks></R>"))
        }
        "RecordLifecycleActionHeartbeat" | "CompleteLifecycleAction" => {
            let is_ours = field("AutoScalingGroupName") == GROUP
                && field("LifecycleHookName") == HOOK
                && field("InstanceId") == ID;
            if !is_ours || !state.is_waiting {
                let why = format!(
                    "No active Lifecycle Action found with instance ID {}",
                    field("InstanceId")
                );
                return refuse(400, "ValidationError", &why);
            }
            if action == "CompleteLifecycleAction" && state.throttled > 0 {
                state.throttled -= 1;
                return refuse(400, "Throttling", "Rate exceeded");
            }
            if action == "CompleteLifecycleAction" {
                if field("LifecycleActionResult") != "CONTINUE" {
                    return refuse(
                        400,
                        "ValidationError",
                        "the result is neither CONTINUE nor ABANDON",
                    );
                }
                state.is_waiting = false;
            }
            state.actions.push(action.to_owned());
            (200, format!("<{action}Response/>"))
        }
        _ => refuse(400, "InvalidAction", "the action is not known"),
    }
}
