//! `serve` on a network: slow and abusive clients, full disks, exhausted descriptors, and signals.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cbbootstrap_tests::{
    cli::User,
    http::{self, Answer},
    local::Local,
    process::{Guard, kill, peak_memory, wait_until},
    programs,
    server::Stub,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::tempdir;

/// A request as bytes, and all that comes back until the connection ends.
fn exchange(endpoint: &str, request: &str) -> String {
    let mut stream = connect(endpoint);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    // A reset after the answer is an end, too.
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn connect(endpoint: &str) -> TcpStream {
    let address = endpoint.split_once("://").unwrap().1;
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream
}

fn claim_of(cluster: &str, more: &str) -> String {
    let body = format!(r#"{{"cluster_id":"{cluster}","node_ip_addr_or_hostname":"a"}}"#);
    let length = body.len();
    format!(
        "POST /cluster HTTP/1.1\r\nConnection: close\r\n{more}Content-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn other_sites_and_other_names_are_refused() {
    let data = tempdir().unwrap();
    let server = Local::serve(data.path(), &["--allowed-host", "api.example.com"]);
    User::default()
        .run(&["serve", "--port", "0", "--allowed-host", "api.example.com:8443"])
        .failed(2, "no port");
    let port = server.endpoint.rsplit(':').next().unwrap();
    let own = format!("127.0.0.1:{port}");
    for (headers, expected) in [
        (format!("Host: {own}\r\n"), "HTTP/1.1 200"),
        (format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"), "HTTP/1.1 200"),
        ("Host: api.example.com\r\n".to_owned(), "HTTP/1.1 200"),
        // A name that its owner has pointed at this machine.
        (format!("Host: rebound.example:{port}\r\n"), "HTTP/1.1 421"),
        // What a page of another site may send without asking.
        (
            format!("Host: {own}\r\nOrigin: http://evil.example\r\nContent-Type: text/plain\r\n"),
            "HTTP/1.1 403",
        ),
        (format!("Host: {own}\r\nOrigin: null\r\n"), "HTTP/1.1 403"),
    ] {
        let answer = exchange(&server.endpoint, &claim_of("c", &headers));
        assert!(answer.starts_with(expected), "{headers}{answer}");
        assert!(!answer.to_lowercase().contains("access-control-allow"), "{answer}");
    }
    // A browser asks first whether it may send JSON.
    let preflight = format!(
        "OPTIONS /cluster HTTP/1.1\r\nHost: {own}\r\nOrigin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n\
         Connection: close\r\n\r\n"
    );
    let answer = exchange(&server.endpoint, &preflight);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    // The API's port is the only one.
    assert_eq!(listening(server.id()), [port.parse::<u16>().unwrap()]);
}

/// The TCP ports that the process listens on.
fn listening(process: u32) -> Vec<u16> {
    let files = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let sockets: Vec<_> = files
        .filter_map(|file| fs::read_link(file.unwrap().path()).ok())
        .filter_map(|link| {
            let link = link.display().to_string();
            Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let mut ports = Vec::new();
    for table in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let columns: Vec<_> = line.split_whitespace().collect();
            let (address, state, socket) = (columns[1], columns[3], columns[9]);
            // `0A` is LISTEN.
            if state == "0A" && sockets.iter().any(|known| known == socket) {
                let port = address.rsplit(':').next().unwrap();
                ports.push(u16::from_str_radix(port, 16).unwrap());
            }
        }
    }
    ports
}

#[test]
fn the_database_belongs_to_its_user_and_to_one_server() {
    let data = tempdir().unwrap();
    let directory = data.path().join("new/data");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut server = Local::serve(&directory, &[]);
    http::claim(&server.endpoint, "c", "a").unwrap();
    assert_eq!(mode(&directory), 0o700);
    let files = || fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path());
    assert!(files().count() >= 3);
    for file in files() {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    let shown = directory.display().to_string();
    let user = User::default();
    user.run(&["serve", "--port", "0", "--data", &shown])
        .failed(1, "another server uses the directory");

    server.stop("KILL");
    // Permissions that another program set.
    for file in files() {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let server = Local::serve(&directory, &[]);
    for file in files() {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    drop(server);
    fs::write(directory.join("clusters.db"), "nonsense ".repeat(1000)).unwrap();
    let _ = fs::remove_file(directory.join("clusters.db-wal"));
    user.run(&["serve", "--port", "0", "--data", &shown]).failed(1, "cannot read the clusters in");
}

#[test]
fn the_log_is_empty_after_a_stop_and_belongs_to_its_database() {
    let data = tempdir().unwrap();
    let file = |name: &str| data.path().join(name);
    let mut server = Local::serve(data.path(), &[]);
    http::claim(&server.endpoint, "c", "a").unwrap();
    server.stop("TERM");
    assert!(!file("clusters.db-wal").exists());

    let mut server = Local::serve(data.path(), &[]);
    http::claim(&server.endpoint, "d", "a").unwrap();
    server.stop("KILL");
    assert!(fs::metadata(file("clusters.db-wal")).unwrap().len() > 0);
    fs::rename(file("clusters.db"), file("moved.db")).unwrap();
    let (directory, user) = (data.path().display().to_string(), User::default());
    // Missing, and then empty, as an interrupted copy leaves it.
    for is_missing in [true, false] {
        if !is_missing {
            fs::write(file("clusters.db"), "").unwrap();
        }
        for command in [
            &["serve", "--port", "0"][..],
            &["cluster", "list", "--local"],
            &["cluster", "show", "d", "--local"],
            &["cluster", "forget", "d", "--local", "--yes"],
        ] {
            let command = [command, &["--data", &directory]].concat();
            user.run(&command).failed(1, "contains `clusters.db-wal`, but not its database");
        }
    }
    fs::rename(file("moved.db"), file("clusters.db")).unwrap();
    let server = Local::serve(data.path(), &[]);
    for cluster in ["c", "d"] {
        let path = format!("/cluster/{cluster}");
        assert_eq!(http::get(&server.endpoint, &path).unwrap().status, 200, "{cluster}");
    }
}

#[test]
fn policy_log_and_metrics_are_options() {
    let data = tempdir().unwrap();
    let options = ["--require-secret", "--require-lease", "--metrics", "--log", "json"];
    let server = Local::serve(data.path(), &options);
    let ask = |more: Value, secret: Option<&str>| {
        let mut body = json!({"cluster_id": "c", "node_ip_addr_or_hostname": "a"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        http::post_as(&server.endpoint, "/cluster", &body.to_string(), secret).unwrap()
    };
    let code = |answer: &Answer| answer.json()["code"].as_str().unwrap_or_default().to_owned();
    let secret = Some("Bearer correct-horse-battery-staple");
    assert_eq!(code(&ask(json!({"lease_seconds": 60}), None)), "secret_required");
    assert_eq!(code(&ask(json!({}), secret)), "missing_field");
    assert_eq!(ask(json!({"lease_seconds": 60}), secret).status, 200);
    wait_until("all are logged", || server.said().matches("\"route\"").count() == 3);
    let said = server.said();
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<_> = lines.filter(|line| line["outcome"].is_string()).collect();
    assert_eq!(
        lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect::<Vec<_>>(),
        ["refused", "refused", "claimed"]
    );
    assert_eq!(lines[0]["code"], "secret_required");
    assert_eq!(lines[2]["cluster"], "2e7d2c03");
    assert!(!said.contains("battery"), "{said}");

    let metrics = http::get(&server.endpoint, "/metrics").unwrap().body;
    for line in [
        "cbbootstrap_requests_total{outcome=\"claimed\",status=\"200\"} 1",
        "cbbootstrap_requests_total{outcome=\"refused\",status=\"401\"} 1",
        "cbbootstrap_request_duration_seconds_count 3",
        "cbbootstrap_connections ",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }

    let data = tempdir().unwrap();
    let silent = Local::serve(data.path(), &["--log", "none"]);
    assert_eq!(http::get(&silent.endpoint, "/metrics").unwrap().status, 404);
    http::claim(&silent.endpoint, "c", "a").unwrap();
    assert!(!silent.said().contains("POST"), "{}", silent.said());
}

/// A certificate for `localhost` that signs itself, and its key.
fn certificate(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn certificates_are_replaced_while_it_serves() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    let [first, second] = ["first", "second"].map(certificate);
    write("cert", &first.0);
    write("key", &first.1);
    write("first", &first.0);
    write("second", &second.0);
    let (cert, key) = (path("cert"), path("key"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let server = Local::serve(&directory.path().join("data"), &tls);
    let user = User::default();
    let endpoint = server.endpoint.replace("127.0.0.1", "localhost");
    assert!(endpoint.starts_with("https://"));
    let pings = |authority: &str| {
        let authority = path(authority);
        user.run(&["ping", &endpoint, "--ca-cert", &authority]).status == Some(0)
    };
    assert!(pings("first") && !pings("second"));
    user.run(&["ping", &endpoint]).failed(1, "does not answer");
    let plain = endpoint.replace("https", "http");
    user.run(&["ping", &plain]).failed(1, "does not answer");

    // A key that does not fit, as between two writes.
    write("cert", &second.0);
    wait_until("it is refused", || server.said().contains("keeping the current TLS certificate"));
    assert!(pings("first"));
    write("key", &second.1);
    wait_until("it is taken", || server.said().contains("was replaced"));
    assert!(pings("second") && !pings("first"));

    let pipe = path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let written = (pipe.clone(), second.1.clone());
    thread::spawn(move || fs::write(written.0, written.1).unwrap());
    let once = ["--tls-cert", &cert, "--tls-key", &pipe];
    let once = Local::serve(&directory.path().join("other"), &once);
    let said = format!("`{pipe}` is not a regular file and is read only once");
    wait_until("the pipe is named", || once.said().contains(&said));

    // As Windows writes them.
    write("cert", &format!("\u{feff}{}", first.0));
    write("key", &format!("\u{feff}{}", first.1));
    wait_until("marks are skipped", || pings("first"));
    let serve = || user.run(&[&["serve", "--port", "0"], &tls[..]].concat());
    write("cert", first.0.split_once("-----END").unwrap().0);
    serve().failed(2, "its last block has no `-----END` line");
    fs::File::create(&cert).unwrap().set_len(1 << 40).unwrap();
    serve().failed(2, "it has more than 16 MiB");

    write("cert", &first.0);
    write("key", "no key");
    serve().failed(2, "no private key in PEM");
    user.run(&["serve", "--tls-cert", &cert]).failed(2, "required arguments");
}

#[test]
fn certificates_that_clients_refuse_are_named_at_the_start() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (cert, key) = (path("cert"), path("key"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let key_pair = KeyPair::generate().unwrap();
    fs::write(&key, key_pair.serialize_pem()).unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let [mut authority, mut expired, mut later] = [(); 3].map(|()| params.clone());
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    later.not_before = rcgen::date_time_ymd(3000, 1, 1);
    let other = CertificateParams::new(vec!["other.test".to_owned()]).unwrap();
    for (params, is_known, advice) in [
        (params, true, None),
        (authority, true, Some("make one with `basicConstraints=CA:FALSE`")),
        (expired, true, Some("renew the server's certificate")),
        (later, true, Some("correct the clock")),
        // The server does not know the names by which it is called.
        (other, false, Some("use a name in the server's certificate")),
    ] {
        fs::write(&cert, params.self_signed(&key_pair).unwrap().pem()).unwrap();
        let server = Local::serve(&directory.path().join("data"), &tls);
        let endpoint = server.endpoint.replace("127.0.0.1", "localhost");
        let user = User::default().with("SSL_CERT_FILE", &cert);
        for (command, status) in
            [(&["ping", &endpoint, "--ca-cert", &cert][..], 1), (&["smoke", &endpoint], 3)]
        {
            let ended = user.run(command).ended_with(advice.map_or(0, |_| status));
            assert!(advice.is_none_or(|it| ended.stderr.contains(it)), "{ended}");
        }
        let warned = advice.filter(|_| is_known);
        assert_eq!(
            server.said().contains("clients will refuse"),
            warned.is_some(),
            "{}",
            server.said()
        );
        assert!(warned.is_none_or(|it| server.said().contains(it)), "{}", server.said());
    }

    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let unsupported = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let other = KeyPair::generate().unwrap().serialize_pem();
    for (text, error) in [
        (encrypted, "the key is encrypted"),
        (unsupported, "the key must be RSA"),
        (&other, "the first certificate does not belong to the key"),
    ] {
        let error =
            format!("cannot use the TLS certificate `{cert}` with the key `{key}`: {error}");
        fs::write(&key, text).unwrap();
        let user = User::default();
        user.run(&[&["serve", "--port", "0"], &tls[..]].concat()).failed(2, &error);
    }
}

#[test]
fn ping_shows_a_refusal() {
    let user = User::default();
    let problem = json!({"status": 421, "title": "", "code": "host_not_allowed", "detail": "use `localhost`"});
    for (status, body, error, hint) in [
        (
            421,
            problem.to_string(),
            "refuses requests: use `localhost` (host_not_allowed)",
            "serve --help",
        ),
        (
            403,
            json!({"message": "Forbidden"}).to_string(),
            "returned status 403",
            "smoke URL --auth iam",
        ),
        (502, "<html>".to_owned(), "returned status 502", "no proxy answers"),
        (200, "<html>".to_owned(), "is not an API of cbbootstrap", "without a path"),
    ] {
        let other = Stub::start(move |_| (status, body.clone()));
        let ended = user.run(&["ping", &other.url]);
        ended.failed(1, error);
        assert!(ended.stderr.contains(hint), "{ended}");
    }
}

#[test]
fn slow_clients_lose_their_connections_and_disturb_nobody() {
    let data = tempdir().unwrap();
    let server = Local::serve(data.path(), &[]);
    let begin = Instant::now();
    let slow: Vec<_> = (0..300)
        .map(|number| {
            let mut stream = connect(&server.endpoint);
            // An empty request, half a head, half a body, and a `Content-Length` that is too large.
            let part = match number % 4 {
                0 => "",
                1 => "POST /cluster HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Sl",
                2 => "POST /cluster HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{\"cluster",
                _ => "POST /cluster HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 40000000\r\n\r\n{",
            };
            stream.write_all(part.as_bytes()).unwrap();
            (number % 4, stream)
        })
        .collect();
    for number in 0..50 {
        let since = Instant::now();
        assert_eq!(http::claim(&server.endpoint, &format!("c{number}"), "a").unwrap().status, 200);
        assert!(since.elapsed() < Duration::from_secs(5));
    }
    for (kind, mut stream) in slow {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let expected = ["", "", "HTTP/1.1 408", "HTTP/1.1 413"][kind];
        assert!(answer.starts_with(expected), "{kind}: {answer}");
    }
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
}

#[test]
fn malformed_requests_are_refused() {
    let data = tempdir().unwrap();
    let server = Local::serve(data.path(), &[]);
    let host = "Host: 127.0.0.1\r\n";
    let long = "x".repeat(20_000);
    for (request, expected) in [
        ("nonsense\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        (format!("GET /{long} HTTP/1.1\r\n{host}\r\n"), "HTTP/1.1 4"),
        (format!("GET / HTTP/1.1\r\n{host}X: {long}\r\n\r\n"), "HTTP/1.1 431"),
        (
            format!(
                "POST /cluster HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"
            ),
            "HTTP/1.1 400",
        ),
        (
            format!(
                "POST /cluster HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2401\r\n{}\r\n0\r\n\r\n",
                "x".repeat(0x2401)
            ),
            "HTTP/1.1 413",
        ),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), "HTTP/1.1 421"),
    ] {
        let answer = exchange(&server.endpoint, &request);
        assert!(answer.starts_with(expected), "{}: {answer}", &request[..40.min(request.len())]);
    }
    assert_eq!(http::claim(&server.endpoint, "c", "a").unwrap().status, 200);
}

#[test]
fn ten_thousand_connections_are_served_in_bounded_memory() {
    const MOST_MEGABYTES: u64 = 300;
    let number = raise_limit_of_files().min(10_000);
    if number < 10_000 {
        eprintln!("only {number} connections: no more files may be open here");
    }
    let data = tempdir().unwrap();
    let server = Local::serve(data.path(), &[]);
    let mut idle = Vec::new();
    let request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    for _ in 0..number - 100 {
        let mut stream = connect(&server.endpoint);
        stream.write_all(request.as_bytes()).unwrap();
        idle.push(stream);
    }
    for stream in &mut idle {
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    assert_eq!(http::claim(&server.endpoint, "c", "a").unwrap().status, 200);
    let used = peak_memory(server.id()) / 1_000_000;
    eprintln!("{} connections, {used} MB", idle.len());
    assert!(used < MOST_MEGABYTES, "{used} MB");
}

/// How many connections a test may open: the others need files, too.
fn raise_limit_of_files() -> usize {
    let files = rlimit::increase_nofile_limit(15_000).unwrap();
    usize::try_from(files - files / 4).unwrap()
}

#[test]
fn a_thousand_nodes_that_connect_at_once_do_not_wait() {
    let most = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let number = raise_limit_of_files().min(1_000).min(most.trim().parse().unwrap());
    let data = tempdir().unwrap();
    let server = Local::serve(data.path(), &[]);
    let address = server.endpoint.trim_start_matches("http://").parse().unwrap();
    // All connect before the server accepts the first. One that finds no room would try again after a second.
    kill("STOP", &server.id().to_string());
    let at_once = |_| TcpStream::connect_timeout(&address, Duration::from_millis(800)).unwrap();
    let connections: Vec<_> = (0..number).map(at_once).collect();
    kill("CONT", &server.id().to_string());
    assert_eq!(http::claim(&server.endpoint, "c", "a").unwrap().status, 200);
    drop(connections);
}

/// The server with a limit of open files.
fn with_files(data: &Path, most: usize) -> (Guard, String) {
    let data = data.display().to_string();
    let limit = format!("ulimit -n {most}; exec \"$0\" serve --port 0 --data \"$1\" --output json");
    let mut command = Command::new("sh");
    command.args(["-c", &limit]).arg(programs::cbbootstrap()).arg(&data);
    started(command)
}

/// A server that a command starts, and its endpoint.
fn started(mut command: Command) -> (Guard, String) {
    let mut child =
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let endpoint = endpoint_of(&mut child);
    (Guard(child), endpoint)
}

fn endpoint_of(child: &mut Child) -> String {
    let mut document = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    while !document.ends_with("}\n") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        document.push(byte[0].into());
    }
    let document: Value = serde_json::from_str(&document).unwrap();
    document["endpoint"].as_str().unwrap().to_owned()
}

#[test]
fn connections_wait_where_files_run_out() {
    let data = tempdir().unwrap();
    // 64 are kept for the database and the like.
    let (_server, endpoint) = with_files(data.path(), 100);
    assert_eq!(http::claim(&endpoint, "c", "a").unwrap().status, 200);
    let mut idle: Vec<_> = (0..80).map(|_| connect(&endpoint)).collect();
    thread::sleep(Duration::from_millis(300));
    // Those that are open are served, and the rest when they are gone.
    let request = "GET /cluster/c HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    for stream in &mut idle {
        stream.write_all(request.as_bytes()).unwrap();
    }
    for mut stream in idle {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    let shown = data.path().join("other").display().to_string();
    let limit = format!("ulimit -n 30; exec \"$0\" serve --port 0 --data {shown}");
    let mut few = Command::new("sh");
    let ended = few.args(["-c", &limit]).arg(programs::cbbootstrap()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(1) && said.contains("open files is too low"), "{said}");
}

#[test]
fn a_full_disk_loses_nothing_and_is_survived() {
    // A file system of our own, which goes with the process.
    let directory = tempdir().unwrap();
    let mount = directory.path().display().to_string();
    let script = "mount -t tmpfs -o size=1m none \"$1\" && exec \"$0\" serve --port 0 --data \"$1\" --output json";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(programs::cbbootstrap()).arg(&mount);
    let can = Command::new("unshare").args(["--mount", "true"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this user may not mount a file system");
        return;
    }
    let (server, endpoint) = started(command);
    let inside = format!("/proc/{}/root{mount}", server.0.id());
    let claim = |number: usize| http::claim(&endpoint, &format!("c{number}"), "a").unwrap();
    for number in 0..10 {
        assert_eq!(claim(number).status, 200);
    }
    let filler = Path::new(&inside).join("filler");
    let _ = fs::write(&filler, vec![1; 2 * 1024 * 1024]);
    let mut acknowledged = 10;
    let refused = loop {
        let answer = claim(acknowledged);
        if answer.status != 200 {
            break answer;
        }
        acknowledged += 1;
        assert!(acknowledged < 100_000, "the disk is never full");
    };
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("unavailable")));
    let stands = |number: usize| http::get(&endpoint, &format!("/cluster/c{number}")).unwrap();
    for number in 0..acknowledged {
        assert_eq!(stands(number).status, 200, "c{number} is read on a full disk");
    }
    fs::remove_file(&filler).unwrap();
    let answer = claim(acknowledged);
    assert_eq!(answer.status, 200, "{answer:?}");
    for number in 0..=acknowledged {
        assert_eq!(stands(number).status, 200, "c{number}");
    }
}

#[test]
fn a_file_that_is_moved_and_moved_back_loses_nothing() {
    let data = tempdir().unwrap();
    let mut server = Local::serve(data.path(), &[]);
    let claim = |number: usize| http::claim(&server.endpoint, &format!("c{number}"), "a").unwrap();
    for number in 0..5 {
        assert_eq!(claim(number).status, 200);
    }
    let (file, moved) = (server.database(), data.path().join("moved.db"));
    fs::rename(&file, &moved).unwrap();
    // Whatever they are answered: many, so that more readers are needed.
    let acknowledged: Vec<_> = thread::scope(|scope| {
        let claims = (5..45).map(|number| scope.spawn(move || (number, claim(number).status)));
        let claims: Vec<_> = claims.collect();
        let claims = claims.into_iter().map(|claim| claim.join().unwrap());
        claims.filter(|(_, status)| *status == 200).map(|(number, _)| number).collect()
    });
    assert!(!file.exists(), "an empty database in its place");
    fs::rename(&moved, &file).unwrap();
    server.stop("KILL");
    let server = Local::serve(data.path(), &[]);
    for number in (0..5).chain(acknowledged) {
        let stands = http::get(&server.endpoint, &format!("/cluster/c{number}")).unwrap();
        assert_eq!(stands.status, 200, "c{number}");
    }
}

#[test]
fn a_broken_request_does_not_disturb_others() {
    let data = tempdir().unwrap();
    let server = Local::serve(data.path(), &[]);
    let claim = |cluster: &str, node: &str| http::claim(&server.endpoint, cluster, node).unwrap();
    for cluster in ["broken", "old", "well"] {
        assert_eq!(claim(cluster, "a").status, 200);
    }
    let database = Connection::open(server.database()).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    let change = |sql: &str| assert_eq!(database.execute(sql, []).unwrap(), 1, "{sql}");
    change(
        "UPDATE clusters SET record = json_set(record, '$.state', 'x') WHERE cluster_id = 'broken'",
    );
    change(
        "UPDATE clusters SET record = json_set(record, '$.kept_until', \
         strftime('%Y-%m-%dT%H:%M:%SZ', record ->> 'kept_until', '-200000 seconds')) WHERE cluster_id = 'old'",
    );

    // A record that cannot be read fails the requests about it, and no others that are carried out with them.
    let ready = r#"{"cluster_id":"broken","node_ip_addr_or_hostname":"a"}"#;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let answer = http::post(&server.endpoint, "/cluster/ready", ready).unwrap();
                    assert_eq!(answer.status, 500);
                }
            });
        }
        let statuses: Vec<_> =
            (0..60).map(|number| claim(&format!("n{number}"), "a").status).collect();
        done.store(true, Ordering::Relaxed);
        assert_eq!(statuses, [200; 60]);
    });

    // While someone else writes, everything is answered that changes nothing, also if its end is to be moved.
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    for cluster in ["old", "well"] {
        let since = Instant::now();
        assert_eq!(
            http::get(&server.endpoint, &format!("/cluster/{cluster}")).unwrap().status,
            200
        );
        assert_eq!(claim(cluster, "b").status, 200);
        assert!(since.elapsed() < Duration::from_secs(2), "{cluster}");
    }
    let data = data.path().display().to_string();
    let user = User::default();
    user.run(&["cluster", "show", "well", "--local", "--data", &data]).ended_with(0);
    assert_eq!(claim("new", "a").status, 503);
    database.execute_batch("COMMIT").unwrap();
    assert_eq!(claim("newer", "a").status, 200);
}

/// Clients that claim one cluster after another until the server has ended. Returns the first node in each response.
fn claims_until_the_end(
    endpoint: &str,
    clients: usize,
    end: impl FnOnce(),
) -> BTreeMap<String, String> {
    let (acknowledged, ended) = (Mutex::new(BTreeMap::new()), AtomicBool::new(false));
    thread::scope(|scope| {
        for client in 0..clients {
            let (acknowledged, ended) = (&acknowledged, &ended);
            scope.spawn(move || {
                // Every cluster is claimed by two clients.
                for number in 0.. {
                    let cluster = format!("c{}-{number}", client / 2);
                    let node = format!("n{client}");
                    match http::claim(endpoint, &cluster, &node) {
                        Ok(answer) if answer.status == 200 => {
                            let first = answer.json()["initial_node_ip_addr_or_hostname"].clone();
                            let first = first.as_str().unwrap().to_owned();
                            let mut acknowledged = acknowledged.lock().unwrap();
                            let before = acknowledged.insert(cluster, first.clone());
                            assert!(before.is_none_or(|before| before == first));
                        }
                        Ok(answer) => panic!("{answer:?}"),
                        Err(_) if ended.load(Ordering::Relaxed) => return,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        wait_until("many claims are acknowledged", || acknowledged.lock().unwrap().len() > 300);
        ended.store(true, Ordering::Relaxed);
        end();
    });
    acknowledged.into_inner().unwrap()
}

#[test]
fn acknowledged_writes_survive_every_end() {
    for signal in ["TERM", "KILL", "INT"] {
        let data = tempdir().unwrap();
        let mut server = Local::serve(data.path(), &["--log", "none"]);
        let (endpoint, id) = (server.endpoint.clone(), server.id().to_string());
        let acknowledged = claims_until_the_end(&endpoint, 16, || kill(signal, &id));
        let status = server.stop("CONT");
        assert_eq!(status, (signal != "KILL").then_some(0), "{signal}: {}", server.said());

        let server = Local::serve(data.path(), &[]);
        for (cluster, first) in acknowledged {
            let stands = http::get(&server.endpoint, &format!("/cluster/{cluster}")).unwrap();
            assert_eq!(
                stands.json()["initial_node_ip_addr_or_hostname"],
                json!(first),
                "{signal}, {cluster}: {stands:?}"
            );
        }
    }
}

#[test]
fn documented_backup_ends_while_nodes_claim() {
    if Command::new("sqlite3").arg("--version").output().is_err() {
        let missing = "there is no sqlite3; `apt-get install sqlite3` installs it";
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
        return;
    }
    let data = tempdir().unwrap();
    let mut server = Local::serve(data.path(), &["--log", "none"]);
    let (endpoint, id) = (server.endpoint.clone(), server.id().to_string());
    http::claim(&endpoint, "before", "a").unwrap();
    let page = fs::read_to_string(programs::workspace().join("docs/server.md")).unwrap();
    let command = page.lines().find(|line| line.contains("sqlite3 clusters.db")).unwrap();
    claims_until_the_end(&endpoint, 16, || {
        for number in 0..3 {
            let command = command.replace("FILE", &format!("backup-{number}.db"));
            let mut backup = Command::new("timeout");
            backup.args(["20", "sh", "-c", &command]).current_dir(data.path());
            assert!(backup.status().unwrap().success(), "{command}");
        }
        kill("KILL", &id);
    });
    server.stop("CONT");
    for number in 0..3 {
        let backup = data.path().join(format!("backup-{number}.db"));
        assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
        let directory = tempdir().unwrap();
        fs::rename(&backup, directory.path().join("clusters.db")).unwrap();
        let server = Local::serve(directory.path(), &[]);
        assert_eq!(http::get(&server.endpoint, "/cluster/before").unwrap().status, 200);
    }
}

#[test]
fn shutdown_waits_for_running_requests() {
    let data = tempdir().unwrap();
    let mut server = Local::serve(data.path(), &[]);
    let address = server.endpoint.strip_prefix("http://").unwrap().to_owned();
    let request = claim_of("c", &format!("Host: {address}\r\n"));
    let (head, tail) = request.split_at(request.len() - 5);
    let mut half = connect(&server.endpoint);
    half.write_all(head.as_bytes()).unwrap();
    let _idle = connect(&server.endpoint);
    thread::sleep(Duration::from_millis(200));
    kill("TERM", &server.id().to_string());
    wait_until("it listens no more", || TcpStream::connect(&address).is_err());
    half.write_all(tail.as_bytes()).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let since = Instant::now();
    assert_eq!(server.stop("CONT"), Some(0));
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_unread_log_does_not_block_requests() {
    let data = tempdir().unwrap();
    let shown = data.path().display().to_string();
    let mut command = Command::new(programs::cbbootstrap());
    command.args(["serve", "--port", "0", "--output", "json", "--data", &shown]);
    let mut child =
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let endpoint = endpoint_of(&mut child);
    let mut guard = Guard(child);
    let mut stream = connect(&endpoint);
    let request = "GET /no HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answers = vec![0; 4096];
    let length = stream.read(&mut answers).unwrap();
    answers.resize(100 * length, 0);
    // More lines, of 50 bytes, than the pipe and the 4 MB that may wait hold.
    for _ in 0..1000 {
        stream.write_all(request.repeat(100).as_bytes()).unwrap();
        stream.read_exact(&mut answers).unwrap();
        let last = &answers[99 * length..];
        assert!(last.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(last));
    }
    assert_eq!(http::claim(&endpoint, "c", "a").unwrap().status, 200);
    drop(stream);
    let since = Instant::now();
    kill("TERM", &guard.0.id().to_string());
    assert_eq!(guard.0.wait().unwrap().code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[test]
fn an_unreadable_table_is_named() {
    let away = User::default()
        .with("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ACCESS_KEY_ID", "test")
        .with("AWS_SECRET_ACCESS_KEY", "test");
    let local = Local::over_table(away, "clusters", &[]);
    let answer = http::claim(&local.endpoint, "c", "a").unwrap();
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("unavailable")));
    assert!(local.said().contains("`clusters` does not answer yet"), "{}", local.said());
    let user = User::default();
    user.run(&["serve", "--table", "clusters", "--data", "x"]).failed(2, "--data");
    user.run(&["ping", "http://127.0.0.1:1"]).failed(1, "does not answer");
    let other = http::get(&local.endpoint, "/docs").unwrap();
    assert_eq!(other.status, 200);
    let docs = format!("{}/docs", local.endpoint);
    user.run(&["ping", &docs]).failed(1, "is not an API of cbbootstrap");
}
