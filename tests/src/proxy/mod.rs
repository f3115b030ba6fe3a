//! A proxy between `cbbootstrap` and the AWS stand-in. It names calls, makes them fail as AWS would, and simulates stack statuses that
//! the stand-in does not have. In front of other servers, it makes requests fail.
//!
//! ```text
//! let aws = MiniStack::start();
//! let proxy = Proxy::start(&aws);
//! proxy.fault_on("s3:PutObject", 1, Fault::Throttle);
//! proxy.play(
//!     Play::on("ExecuteChangeSet")
//!         .stack("UPDATE_IN_PROGRESS")
//!         .after(Duration::from_millis(300))
//!         .resource("Function", "AWS::Lambda::Function", "UPDATE_FAILED")
//!         .because("no such key")
//!         .stack("UPDATE_ROLLBACK_COMPLETE"),
//! );
//! proxy.user().run(&["deploy", "--yes"]).failed(1, "no such key");
//! assert_eq!(proxy.count("cloudformation:ExecuteChangeSet"), 1);
//! ```
//!
//! It does not see calls from the function or to the API, because these use the stand-in's address. For them, see
//! [`MiniStack::start_with`] and [`Proxy::before`].

mod call;
mod fault;
mod play;
mod rounds;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fastrand::Rng;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    http::request::Parts,
    server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use self::play::Stage;
pub use self::{call::Call, fault::Fault, play::Play, rounds::Rounds};
use crate::{
    boto::Boto,
    cli::User,
    ministack::{self, MiniStack},
    process::{kill, wait_until},
    server::Server,
};

type Answer = Response<Bytes>;
type Faults = dyn FnMut(&Call) -> Option<Fault> + Send;

/// The connection is closed without an answer.
type Dropped = io::Error;

#[derive(Debug)]
pub struct Proxy {
    /// The value of `AWS_ENDPOINT_URL`.
    pub url: String,
    boto: Boto,
    shared: Arc<Shared>,
    _server: Server,
}

impl Proxy {
    /// Starts one on a free port.
    pub fn start(aws: &MiniStack) -> Self {
        Self::before(&aws.url)
    }

    /// Starts one in front of a server with plain HTTP, which may start later.
    pub fn before(url: &str) -> Self {
        let upstream = url.trim_start_matches("http://").parse();
        let shared = Arc::new(Shared {
            upstream: upstream.expect("a server has an address"),
            calls: Mutex::default(),
            faults: Mutex::new(Box::new(|_| None)),
            stage: Mutex::default(),
            target: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let server = Server::start(move |socket| serve(socket, serving));
        let url = server.url.clone();
        Self { boto: Boto::new(&url), url, shared, _server: server }
    }

    /// A user with all permissions, whose calls go through the proxy.
    pub fn user(&self) -> User {
        ministack::user(&self.url)
    }

    /// [`MiniStack::boto`] through the proxy.
    pub fn boto(&self, expression: &str) -> Value {
        self.boto.value(expression)
    }

    /// Sets the function that chooses the fault of each call. It must not use the proxy.
    pub fn fault(&self, decide: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        *lock(&self.shared.faults) = Box::new(decide);
    }

    /// Sets a fault for the next calls with this name only.
    pub fn fault_on(&self, name: &str, times: usize, fault: Fault) {
        let (name, mut left) = (name.to_owned(), times);
        self.fault(move |call| {
            if call.name != name || left == 0 {
                return None;
            }
            left -= 1;
            Some(fault.clone())
        });
    }

    /// Sets a fault for the call with this number only.
    pub fn fault_at(&self, number: usize, fault: Fault) {
        self.fault(move |call| (call.number == number).then(|| fault.clone()));
    }

    /// Sets random faults for a share of the calls, as [`Fault::at_random`] chooses them. The seed determines them.
    pub fn fault_at_random(&self, seed: u64, share: f64) {
        let mut random = Rng::with_seed(seed);
        self.fault(move |_| (random.f64() < share).then(|| Fault::at_random(&mut random)));
    }

    /// Sets the process whose group [`Fault::Kill`] kills. Calls with this fault wait until it is set.
    pub fn target(&self, process: u32) {
        *lock(&self.shared.target) = Some(process);
    }

    /// Sets the stack's status until [`Proxy::curtain`] or the next operation on the stack.
    pub fn stack_is(&self, status: &str) {
        self.stack_is_because(status, "");
    }

    /// [`Proxy::stack_is`] with the status's reason.
    pub fn stack_is_because(&self, status: &str, reason: &str) {
        lock(&self.shared.stage).stand(status, reason);
    }

    /// Plays statuses and events of the stack, now or after the call that the play waits for.
    ///
    /// The stand-in's events during the play stay hidden. Until the stack's first scene, its status is the one before the play.
    pub fn play(&self, play: Play) {
        lock(&self.shared.stage).take(play);
    }

    /// Ends the play: all further answers are the stand-in's.
    pub fn curtain(&self) {
        lock(&self.shared.stage).end(Timestamp::now());
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.calls).clone()
    }

    /// The number of calls with this name.
    pub fn count(&self, name: &str) -> usize {
        let calls = lock(&self.shared.calls);
        calls.iter().filter(|call| call.name == name).count()
    }

    /// Waits for the answer to a call with this name.
    pub fn wait_for(&self, name: &str) -> Call {
        let answered = || {
            let calls = lock(&self.shared.calls);
            let mut named = calls.iter().filter(|call| call.name == name);
            named.find(|call| call.status.is_some()).cloned()
        };
        wait_until(&format!("{name} is answered"), || answered().is_some());
        answered().expect("it was there")
    }

    /// Forgets calls, faults, plays and target.
    pub fn reset(&self) {
        self.fault(|_| None);
        lock(&self.shared.calls).clear();
        *lock(&self.shared.stage) = Stage::default();
        *lock(&self.shared.target) = None;
    }
}

/// What the proxy's thread and the test share.
struct Shared {
    upstream: SocketAddr,
    calls: Mutex<Vec<Call>>,
    faults: Mutex<Box<Faults>>,
    stage: Mutex<Stage>,
    target: Mutex<Option<u32>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("upstream", &self.upstream)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// A test that failed with a lock in its hands has failed already.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(socket: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = socket.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move {
                    let answer = shared.answer(request).await?;
                    Ok::<_, Dropped>(answer.map(Full::new))
                }
            });
            // An error means that the caller or a fault has closed the connection.
            let _ = server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Dropped> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let mut call = Call::of(&head, &body);
        {
            let mut calls = lock(&self.calls);
            call.number = calls.len() + 1;
            calls.push(call.clone());
        }
        call.fault = lock(&self.faults)(&call);
        self.note(&call);
        let answer = self.act(&call, head, body).await?;
        call.status = Some(answer.status().as_u16());
        call.answered = Some(Instant::now());
        self.note(&call);
        Ok(answer)
    }

    /// Records the answer to a call.
    fn note(&self, call: &Call) {
        if let Some(kept) = lock(&self.calls).get_mut(call.number - 1) {
            kept.clone_from(call);
        }
    }

    async fn act(
        self: &Arc<Self>,
        call: &Call,
        head: Parts,
        body: Bytes,
    ) -> Result<Answer, Dropped> {
        let Some(fault) = &call.fault else {
            return self.carry_out(call, head, body).await;
        };
        if let Some(answer) = fault.answer(call) {
            return Ok(answer);
        }
        match fault {
            Fault::DropRequest => return Err(io::Error::other("the request is dropped")),
            Fault::Delay(time) => tokio::time::sleep(*time).await,
            Fault::Duplicate(later) => {
                self.repeat(call.clone(), *later, head.clone(), body.clone());
            }
            _ => {}
        }
        let answer = self.carry_out(call, head, body).await?;
        match fault {
            Fault::Kill => kill("KILL", &format!("-{}", self.wait_for_target().await)),
            Fault::DropAnswer => {}
            Fault::Replace(from, to) => {
                return Ok(
                    answer.map(|body| String::from_utf8_lossy(&body).replace(from, to).into())
                );
            }
            _ => return Ok(answer),
        }
        Err(io::Error::other("the answer is dropped"))
    }

    /// Forwards it after this time, and discards the answer.
    fn repeat(self: &Arc<Self>, call: Call, later: Duration, head: Parts, body: Bytes) {
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(later).await;
            let _ = shared.carry_out(&call, head, body).await;
        });
    }

    /// A process may make its first call before the test has set the target.
    async fn wait_for_target(&self) -> u32 {
        loop {
            let target = *lock(&self.target);
            match target {
                Some(target) => return target,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Forwards the call, unless a play answers it.
    async fn carry_out(&self, call: &Call, head: Parts, body: Bytes) -> Result<Answer, Dropped> {
        let cue = lock(&self.stage).cue(call);
        let answer = match cue.as_ref().and_then(|cue| cue.answer(call)) {
            Some(answer) => Ok(answer),
            None => self.forward(head, body).await,
        };
        let mut stage = lock(&self.stage);
        if let Some(cue) = cue {
            let well = answer.as_ref().is_ok_and(|a| a.status().is_success());
            stage.answered(call, cue, well);
        }
        Ok(stage.rewrite(call, answer?))
    }

    /// Forwards the request unchanged. `Host` stays the proxy's, because it is signed.
    async fn forward(&self, head: Parts, body: Bytes) -> Result<Answer, Dropped> {
        let is_head = head.method == Method::HEAD;
        let stream = TcpStream::connect(self.upstream).await?;
        let request = Request::from_parts(head, Full::new(body));
        let exchange = async {
            let (mut sender, connection) =
                client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let (head, body) = sender.send_request(request).await?.into_parts();
            Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
        };
        let (mut head, body) = exchange.await.map_err(io::Error::other)?;
        // The connection's own. The length of what a HEAD asks about is not.
        head.headers.remove(CONNECTION);
        head.headers.remove(TRANSFER_ENCODING);
        if !is_head {
            head.headers.remove(CONTENT_LENGTH);
        }
        Ok(Response::from_parts(head, body))
    }
}
