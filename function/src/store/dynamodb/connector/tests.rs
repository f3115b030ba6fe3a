use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::yield_now,
};

use super::*;

#[test]
fn requests_have_the_signed_host_and_only_the_path() {
    for (url, origin, host, path) in [
        ("https://a.amazonaws.com", (true, "a.amazonaws.com", 443), "a.amazonaws.com", "/"),
        ("https://localhost:443/", (true, "localhost", 443), "localhost", "/"),
        ("http://localhost:443/", (false, "localhost", 443), "localhost:443", "/"),
        ("http://[::1]:8000/a?b=c", (false, "::1", 8000), "[::1]:8000", "/a?b=c"),
        ("http://user:password@127.0.0.1", (false, "127.0.0.1", 80), "127.0.0.1", "/"),
    ] {
        let (found, request) = for_connection(request_to(url)).unwrap();
        assert_eq!((found.is_tls, found.name(), found.port), origin, "{url}");
        assert_eq!(request.headers()[HOST], host, "{url}");
        assert_eq!(request.uri().to_string(), path, "{url}");
    }
    for url in ["ftp://localhost/", "localhost", "/"] {
        let error = for_connection(request_to(url)).unwrap_err();
        assert!(error.to_string().contains("is not an endpoint's URL"), "{error}");
    }
}

fn request_to(url: &str) -> HttpRequest {
    let mut request = HttpRequest::new(SdkBody::from("{}"));
    request.set_uri(url).unwrap();
    request
}

/// A server with these responses for each of its connections, one after the other. It closes a connection after the last one.
async fn server(connections: Vec<Vec<&'static str>>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        for responses in connections {
            let (mut stream, _) = listener.accept().await.unwrap();
            open.push(tokio::spawn(async move {
                for response in responses {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await.unwrap();
                    stream.write_all(response.as_bytes()).await.unwrap();
                }
            }));
        }
        for connection in open {
            connection.await.unwrap();
        }
    });
    url
}

fn connector() -> Connector {
    Connector::new(RootCertStore::empty())
}

async fn status(connector: &Connector, url: &str) -> Result<u16, ConnectorError> {
    let response = connector.call(request_to(url)).await?;
    Ok(response.status().as_u16())
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const LAST: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const FAILED: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
const SHORT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}";

#[tokio::test]
async fn connections_are_used_until_the_server_closes_them_or_fails() {
    let url =
        server(vec![vec![OK, OK, OK], vec![OK, LAST], vec![FAILED, OK], vec![OK], vec![SHORT]])
            .await;
    let connector = connector();
    for (number, expected) in [200, 200, 200, 200, 400, 500, 200].into_iter().enumerate() {
        assert_eq!(status(&connector, &url).await.unwrap(), expected, "{number}");
        // The end of a connection may arrive after its last response.
        if number == 2 {
            while !connector.idle()[0].sender.is_closed() {
                yield_now().await;
            }
        }
    }
    while !connector.idle()[0].sender.is_closed() {
        yield_now().await;
    }
    let error = status(&connector, &url).await.unwrap_err();
    assert!(error.is_io(), "{error:?}");
    assert!(connector.idle().is_empty(), "a broken connection is not used again");
    let error = status(&connector, &url).await.unwrap_err();
    assert!(error.is_io() && format!("{error:?}").contains("refused"), "{error:?}");
}

#[tokio::test]
async fn requests_at_the_same_time_have_a_connection_each() {
    let url = server(vec![vec![OK, OK], vec![OK, OK]]).await;
    let connector = connector();
    for _ in 0..2 {
        let (one, two) = tokio::join!(status(&connector, &url), status(&connector, &url));
        assert_eq!((one.unwrap(), two.unwrap()), (200, 200));
    }
}
