//! Nodes in containers. The container [`HOST`] keeps the clusters of all nodes. A node's container forwards its connections to it,
//! each with the node's id.
//!
//! The id is random and stored in the node's volume: with the same volume it is the same node, and with a new one it is blank.

use std::{
    fs, io,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::net::{TcpListener as Listener, TcpStream as Stream};

use super::{
    lock,
    model::{World, id},
    net::{self, Shared},
    rest::{HTTP, HTTPS},
    views,
};

/// The host name of the container that keeps the clusters.
pub const HOST: &str = "model";

const PORT: u16 = 8090;

/// More nodes than any test has.
const CAPACITY: usize = 16;

/// The directory of Couchbase Server's data.
const VOLUME: &str = "/opt/couchbase/var";

/// The clusters, and the ids of the nodes, each at the index of its node.
struct Keeper {
    shared: Arc<Shared>,
    ids: Mutex<Vec<String>>,
}

/// Keeps the clusters of all nodes until the container ends.
pub fn keep() -> io::Result<()> {
    let mut world = World::new(&[Ipv4Addr::UNSPECIFIED; CAPACITY], false, false);
    for node in &mut world.nodes {
        node.is_up = false;
    }
    // 120 s by default in Couchbase Server.
    world.knobs.auto_failover_after = Some(Duration::from_secs(10));
    let keeper = Arc::new(Keeper { shared: Arc::new(Shared::new(world)), ids: Mutex::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = Listener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        loop {
            let (stream, from) = listener.accept().await?;
            let keeper = Arc::clone(&keeper);
            // An error means that the other container was killed.
            tokio::spawn(async move { keeper.serve(stream, from.ip()).await });
        }
    })
}

impl Keeper {
    /// Serves a connection, whose first line names its purpose.
    async fn serve(&self, stream: Stream, from: IpAddr) -> io::Result<()> {
        let line = read_line(&stream).await?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("node", id) => {
                let (node, times) = self.switch_on(id, from)?;
                stream.writable().await?;
                stream.try_write(b"on\n")?;
                // The connection ends with its container.
                let _ = read_line(&stream).await;
                self.switch_off(node, times);
                Ok(())
            }
            (scheme @ ("http" | "https"), id) => {
                let node = self.find(id).ok_or(io::ErrorKind::NotFound)?;
                let shared = Arc::clone(&self.shared);
                net::receive(shared, node, stream, scheme == "https").await;
                Ok(())
            }
            ("show", _) => {
                let shown = self.show().to_string();
                let mut stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                stream.write_all(shown.as_bytes())
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn find(&self, id: &str) -> Option<usize> {
        lock(&self.ids).iter().position(|known| known == id)
    }

    /// Switches a node on, at this address, and returns how many times it was switched.
    fn switch_on(&self, id: &str, address: IpAddr) -> io::Result<(usize, u32)> {
        let IpAddr::V4(address) = address else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let node = self.find(id).unwrap_or_else(|| {
            let mut ids = lock(&self.ids);
            assert!(ids.len() < CAPACITY, "there are no more nodes");
            ids.push(id.to_owned());
            ids.len() - 1
        });
        // Its container may have been killed and started again before that was seen.
        if lock(&self.shared.world).nodes[node].is_up {
            self.set_power(node, false);
        }
        lock(&self.shared.world).nodes[node].address = address;
        Ok((node, self.set_power(node, true)))
    }

    /// Switches a node off, unless it was switched after that.
    fn switch_off(&self, node: usize, times: u32) {
        if *self.shared.switched[node].borrow() == times {
            self.set_power(node, false);
        }
    }

    fn set_power(&self, node: usize, is_up: bool) -> u32 {
        let mut world = lock(&self.shared.world);
        let now = world.now();
        world.settle(now);
        world.set_power(node, is_up, false, now);
        let switched = &self.shared.switched[node];
        switched.send_modify(|times| *times += 1);
        *switched.borrow()
    }

    fn show(&self) -> Value {
        let mut world = lock(&self.shared.world);
        let clusters = views(&mut world);
        let clusters = clusters.iter().map(|cluster| {
            let nodes = cluster.nodes.iter().map(|node| {
                json!({
                    "name": node.name,
                    "membership": node.membership.word(),
                    "is_healthy": node.is_healthy,
                    "services": node.services,
                })
            });
            json!({
                "uuid": cluster.uuid,
                "buckets": cluster.buckets,
                "is_balanced": cluster.is_balanced,
                "nodes": nodes.collect::<Vec<_>>(),
            })
        });
        json!({"clusters": clusters.collect::<Vec<_>>(), "wiped": world.wiped.len()})
    }
}

/// Reads a line, and no byte after it.
async fn read_line(stream: &Stream) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        stream.readable().await?;
        let mut byte = [0];
        match stream.try_read(&mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte == *b"\n" => {
                return String::from_utf8(line).map_err(io::Error::other);
            }
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// The clusters as JSON. Run it in the container that keeps them.
pub fn show() -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
    stream.write_all(b"show\n")?;
    let mut shown = String::new();
    stream.read_to_string(&mut shown)?;
    Ok(shown)
}

/// Runs a node until the container that keeps the clusters ends.
pub fn pass_on() -> io::Result<()> {
    let id = node_id()?;
    let mut keeper = loop {
        match TcpStream::connect((HOST, PORT)) {
            Ok(stream) => break stream,
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    };
    keeper.write_all(format!("node {id}\n").as_bytes())?;
    keeper.read_exact(&mut [0; 3])?;
    let address = keeper.peer_addr()?;
    for (scheme, port) in [("http", HTTP), ("https", HTTPS)] {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let first = format!("{scheme} {id}\n");
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let first = first.clone();
                thread::spawn(move || connect(client, address, &first));
            }
        });
    }
    keeper.read(&mut [0]).map(drop)
}

/// The node's id, created on its first start.
fn node_id() -> io::Result<String> {
    let path = Path::new(VOLUME).join("node-id");
    fs::read_to_string(&path).or_else(|_| {
        let id = id();
        fs::write(path, &id).map(|()| id)
    })
}

/// Forwards a client's connection.
fn connect(client: TcpStream, keeper: SocketAddr, first: &str) -> io::Result<()> {
    let mut node = TcpStream::connect(keeper)?;
    node.write_all(first.as_bytes())?;
    let (from, to) = (client.try_clone()?, node.try_clone()?);
    thread::spawn(move || copy(from, to));
    copy(node, client)
}

fn copy(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)
}
