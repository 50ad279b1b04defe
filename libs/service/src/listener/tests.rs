use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// Serves nothing, until the end of the test.
async fn serve(limits: ListenerLimits) -> SocketAddr {
    let (address, metrics) = ("127.0.0.1:0".parse().unwrap(), Metrics::default());
    let listener = Listener::bind(address, Exposure::LoopbackOnly, limits, &metrics).await.unwrap();
    let address = listener.address().unwrap();
    let layer = tower_layer::Identity::new();
    tokio::spawn(listener.serve(Routes::default(), layer, std::future::pending()));
    address
}

/// What the server says to `request` until it closes the connection.
async fn answer(address: SocketAddr, request: &[u8]) -> String {
    let (mut reading, mut writing) = TcpStream::connect(address).await.unwrap().into_split();
    let request = request.to_vec();
    let sending = tokio::spawn(async move { (writing.write_all(&request).await, writing) });
    let mut answer = Vec::new();
    reading.read_to_end(&mut answer).await.unwrap();
    drop(sending.await.unwrap());
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_client_of_http1_is_told_what_the_port_speaks() {
    let address = serve(ListenerLimits::default()).await;
    let mut large = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n".to_vec();
    large.extend(vec![b'x'; 300_000]);
    for request in [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), b"HEAD / HTTP/1.0\r\n\r\n".to_vec(), large] {
        let answer = answer(address, &request).await;
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 426 ") && head.contains("text/plain"), "{answer}");
        assert!(
            head.contains(&format!("content-length: {}\r\n", text.len())) || head.ends_with(&text.len().to_string())
        );
        assert!(text.contains("speaks gRPC over HTTP/2") && text.lines().count() == 1, "{answer}");
    }
}

#[tokio::test]
async fn a_client_of_http2_is_served_however_its_preface_arrives() {
    let address = serve(ListenerLimits::default()).await;
    for first in [1, 3, 24] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (begin, rest) = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".split_at(first);
        stream.write_all(begin).await.unwrap();
        // SETTINGS: the connection is with the HTTP/2 server.
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame[3], 4, "{frame:?}");
        stream.write_all(rest).await.unwrap();
        let mut settings = vec![0; usize::from(frame[2])];
        stream.read_exact(&mut settings).await.unwrap();
        loop {
            stream.read_exact(&mut frame).await.unwrap();
            if (frame[3], frame[4]) == (4, 1) {
                break;
            }
            let mut rest = vec![0; usize::from(frame[2])];
            stream.read_exact(&mut rest).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_and_its_place_is_free_again() {
    let first_request = Duration::from_millis(50);
    let address = serve(ListenerLimits { connections_max: 1, first_request, ..ListenerLimits::default() }).await;
    for silent in [&b""[..], b"PRI * "] {
        assert!(!answer_of_any_kind(address, silent).await.starts_with(b"HTTP"));
    }
    while !answer_of_any_kind(address, b"GET / HTTP/1.1\r\n\r\n").await.starts_with(b"HTTP/1.1 426") {
        tokio::task::yield_now().await;
    }
}

/// What the server says, or nothing when it refuses the connection.
async fn answer_of_any_kind(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    if stream.write_all(request).await.is_ok() {
        let _ = stream.read_to_end(&mut answer).await;
    }
    answer
}
