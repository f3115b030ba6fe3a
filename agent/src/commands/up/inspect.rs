//! Whether a node that lost its claim has begun a cluster nevertheless.

use std::{thread, time::Instant};

use cbbootstrap_cli::{failure::Failure, text::shell_argument};
use cbbootstrap_protocol::names::Node;

use super::{Interrupt, Run};
use crate::{
    decision::Inspection,
    http::{self, Deadline, Trust},
    server::Server,
};

impl Run<'_> {
    /// Inspects the servers of nodes that lost their claims, all at once. An unclear one may be a cluster: it is inspected again.
    pub(super) fn inspect(&mut self, nodes: &[Node]) -> Result<(), Interrupt> {
        let (deadline, began) = (self.here.peers.deadline, Instant::now());
        let inspections: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                nodes.iter().map(|node| scope.spawn(move || inspect(node, deadline))).collect();
            let failed = |_| Err("the inspection failed".to_owned());
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(failed)).collect()
        });
        let (times, gap) = ((began, Instant::now()), self.goal.inspection_gap());
        let mut result = Ok(());
        for (node, inspection) in nodes.iter().zip(inspections) {
            let state = inspection.as_ref().ok().copied();
            self.state.memory.note_inspection(node, state, gap, times);
            match inspection {
                Ok(inspection) => {
                    let state = match inspection {
                        Inspection::Blank => "belongs to no cluster",
                        Inspection::Provisioned => "belongs to a cluster",
                        Inspection::Unreachable | Inspection::Dead => "does not answer",
                    };
                    self.printer
                        .step(format_args!("inspect: `{node}`, which lost its claim, {state}"));
                }
                Err(why) => {
                    let failure = Failure::new(format!(
                        "it is unclear whether `{node}`, which lost its claim, belongs to a cluster: {why}"
                    ));
                    result = Err(Interrupt::unfinished(failure.hint(format!(
                        "repair or stop that server; if there is no cluster, `cbbootstrap cluster forget {}` lets a new one begin",
                        shell_argument(self.here.api.cluster_id.as_str())
                    ))));
                }
            }
        }
        result
    }
}

/// Finds out without credentials whether a node's server belongs to a cluster. Where something accepts connections, a server runs:
/// without a clear answer, it may be a cluster. The error says why that is unclear.
fn inspect(node: &Node, deadline: Deadline) -> Result<Inspection, String> {
    let mut result = Ok(Inspection::Unreachable);
    // Community Edition has no TLS.
    for trust in [Some(&Trust::Anyone), None] {
        let server = Server::on_node(node, trust, None, deadline);
        let is_provisioned = match http::accepts_connections(&server.url, deadline) {
            Ok(true) => server.is_provisioned().map_err(|error| error.to_string()),
            Ok(false) => continue,
            Err(why) => Err(why),
        };
        match is_provisioned {
            Ok(true) => return Ok(Inspection::Provisioned),
            Ok(false) => return Ok(Inspection::Blank),
            Err(why) => result = Err(why),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        time::Duration,
    };

    use super::*;

    /// Inspects a port that does this with each connection.
    fn inspect_port(
        deadline: Duration,
        talk: fn(&mut TcpStream) -> std::io::Result<()>,
    ) -> Result<Inspection, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let node = Node::new(listener.local_addr().unwrap().to_string()).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let _ = talk(&mut stream);
                });
            }
        });
        inspect(&node, Deadline::after(deadline))
    }

    fn receive(stream: &mut TcpStream) -> std::io::Result<()> {
        stream.read(&mut [0; 4096]).map(drop)
    }

    #[test]
    fn server_without_a_clear_answer_never_counts_as_absent() {
        type Talk = fn(&mut TcpStream) -> std::io::Result<()>;
        let cases: [(&str, Talk); 7] = [
            ("it closes the connection", |_| Ok(())),
            ("it closes the connection after the request", receive),
            ("it does not answer", |_| {
                thread::sleep(Duration::from_mins(1));
                Ok(())
            }),
            ("it does not speak HTTP", |stream| stream.write_all(b"SSH-2.0-OpenSSH\r\n")),
            // TLS: a fatal alert, `handshake_failure`.
            ("it refuses TLS and HTTP", |stream| {
                receive(stream)?;
                stream.write_all(&[21, 3, 3, 0, 2, 2, 40])
            }),
            ("it answers that it fails", |stream| {
                receive(stream)?;
                stream.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
            }),
            ("its answer is too large", |stream| {
                receive(stream)?;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n")?;
                stream.write_all(&vec![b' '; 9_000_000])
            }),
        ];
        for (what, talk) in cases {
            let inspection = inspect_port(Duration::from_secs(1), talk);
            assert!(inspection.is_err(), "{what}: {inspection:?}");
        }
    }

    #[test]
    fn clear_answer_of_either_port_counts() {
        let blank = inspect_port(Duration::from_secs(5), |stream| {
            receive(stream)?;
            let pools = r#"{"pools": [], "uuid": [], "implementationVersion": "7.6.8-1-community", "isEnterprise": false}"#;
            let length = pools.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{pools}")
        });
        assert_eq!(blank, Ok(Inspection::Blank));
        let provisioned = inspect_port(Duration::from_secs(5), |stream| {
            receive(stream)?;
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        });
        assert_eq!(provisioned, Ok(Inspection::Provisioned));
    }

    #[test]
    fn refused_connection_and_unknown_name_are_absent() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for node in [free.to_string(), "cb-0.invalid".to_owned()] {
            let inspection = inspect(&Node::new(&node).unwrap(), Deadline::never());
            assert_eq!(inspection, Ok(Inspection::Unreachable), "{node}");
        }
    }
}
