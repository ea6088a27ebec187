#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
    routing::any,
};
use futures_util::TryStreamExt;
use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use url::Url;

use super::*;

/// Serves `router` on a free loopback port.
async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Answers every request with `answer`.
async fn serve_all<F, R>(answer: F) -> SocketAddr
where
    F: Fn(Request) -> R + Clone + Send + Sync + 'static,
    R: IntoResponse + Send + 'static,
{
    serve(Router::new().fallback(any(move |request: Request| {
        let response = answer(request).into_response();
        async move { response }
    })))
    .await
}

/// Answers one connection with these bytes and closes it.
async fn serve_bytes(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        stream.write_all(bytes).await.unwrap();
    });
    address
}

fn exceptions(address: SocketAddr) -> NetworkExceptions {
    let port = address.port();
    NetworkExceptions {
        // On some machines `localhost` is both.
        private: vec![format!("127.0.0.1/32:{port}").parse().unwrap(), format!("::1/128:{port}").parse().unwrap()],
        http: vec![format!("127.0.0.1:{port}").parse().unwrap(), format!("localhost:{port}").parse().unwrap()],
    }
}

fn wire(network: NetworkExceptions) -> HttpWire {
    let connect_timeout = Duration::from_secs(5);
    HttpWire::new(WireConfig { network, authorities: Vec::new(), connect_timeout }).unwrap()
}

fn get(url: &str) -> WireParts {
    WireParts {
        method: Method::GET,
        url: Url::parse(url).unwrap(),
        headers: HeaderMap::new(),
        body: Body::Empty,
        limits: WireLimits { timeout: Duration::from_secs(20), response_bytes: 1 << 20 },
        private: true,
    }
}

async fn whole(response: WireResponse) -> Result<Vec<u8>, WireError> {
    response
        .body
        .try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
}

#[tokio::test]
async fn request_arrives_as_it_was_given() {
    let address = serve_all(|request: Request| {
        let header =
            |name: &str| request.headers().get(name).map_or("none", |value| value.to_str().unwrap()).to_owned();
        [
            request.method().to_string(),
            request.uri().to_string(),
            header("host"),
            header("x-a"),
            header("accept-encoding"),
            header("user-agent"),
            header("referer"),
        ]
        .join(" ")
    })
    .await;
    let mut parts = get(&format!("http://{address}/a%2Fb/c?d=e%20f"));
    parts.headers.insert("x-a", "b".parse().unwrap());
    parts.method = Method::DELETE;
    let response = wire(exceptions(address)).dial(parts).await.unwrap();
    let agent = concat!("keyward/", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        String::from_utf8(whole(response).await.unwrap()).unwrap(),
        format!("DELETE /a%2Fb/c?d=e%20f {address} b gzip, deflate, br, zstd {agent} none")
    );
}

/// Runs itself again in a process whose environment names a proxy that nobody listens at.
#[tokio::test]
async fn proxy_from_the_environment_is_ignored() {
    const NAME: &str = "wire::tests::proxy_from_the_environment_is_ignored";
    if std::env::var_os("ALL_PROXY").is_none() {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
            test.env(name, "http://127.0.0.1:1");
        }
        let output = test.env_remove("NO_PROXY").env_remove("no_proxy").args(["--exact", NAME]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let address = serve_all(|_| "direct").await;
    let response = wire(exceptions(address)).dial(get(&format!("http://{address}/"))).await.unwrap();
    assert_eq!(whole(response).await.unwrap(), b"direct");
}

#[tokio::test]
async fn redirect_is_handed_back_and_not_followed() {
    static HITS: AtomicUsize = AtomicUsize::new(0);
    let address = serve_all(|_| {
        HITS.fetch_add(1, Ordering::SeqCst);
        (StatusCode::FOUND, [("location", "/elsewhere")])
    })
    .await;
    let response = wire(exceptions(address)).dial(get(&format!("http://{address}/"))).await.unwrap();
    assert_eq!((response.status, &response.headers["location"]), (StatusCode::FOUND, &"/elsewhere".parse().unwrap()));
    assert_eq!(HITS.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn http_is_refused_without_an_exception() {
    let address = serve_all(|_| "").await;
    let network = NetworkExceptions { http: Vec::new(), ..exceptions(address) };
    let error = wire(network).dial(get(&format!("http://{address}/?q=canary"))).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::SchemeNotAllowed, Sent::No));
    assert_eq!(error.hint.unwrap(), format!("use https, or the operator adds `http = [\"{address}\"]` to `[network]`"));
}

#[tokio::test]
async fn local_address_is_refused_without_an_exception_by_number_and_by_name() {
    let address = serve_all(|_| "").await;
    let port = address.port();
    let network = NetworkExceptions { private: Vec::new(), ..exceptions(address) };
    let wire = wire(network);
    for host in ["127.0.0.1", "localhost"] {
        let error = wire.dial(get(&format!("http://{host}:{port}/"))).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (Reason::AddressNotAllowed, Sent::No), "{host}");
        assert!(!error.message.contains("loopback"), "{}", error.message);
        let hint = error.hint.unwrap();
        assert!(
            hint.contains("loopback") && hint.contains(&format!("/32:{port}\"]`")) || hint.contains("::1/128"),
            "{hint}"
        );
    }
}

#[tokio::test]
async fn every_way_to_write_a_local_address_is_refused() {
    let wire = wire(NetworkExceptions::default());
    for host in [
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "0",
        "169.254.169.254",
    ] {
        let error = wire.dial(get(&format!("https://{host}/"))).await.unwrap_err();
        assert_eq!(error.reason, Reason::AddressNotAllowed, "{host}");
    }
}

#[tokio::test]
async fn exception_for_one_port_does_not_open_another() {
    let open = serve_all(|_| "open").await;
    let closed = serve_all(|_| "closed").await;
    let mut network = exceptions(open);
    network.http.push(format!("127.0.0.1:{}", closed.port()).parse().unwrap());
    network.http.push(format!("localhost:{}", closed.port()).parse().unwrap());
    // The closed port has an exception too, but not for this address.
    network.private.push(format!("10.0.0.0/8:{}", closed.port()).parse().unwrap());
    let wire = wire(network);
    assert!(wire.dial(get(&format!("http://{open}/"))).await.is_ok());
    for host in ["127.0.0.1", "localhost"] {
        let error = wire.dial(get(&format!("http://{host}:{}/", closed.port()))).await.unwrap_err();
        assert_eq!(error.reason, Reason::AddressNotAllowed, "{host}");
    }
}

#[tokio::test]
async fn exceptions_hold_for_what_the_manifest_calls_private_alone() {
    let address = serve_all(|_| "here").await;
    let wire = wire(exceptions(address));
    for host in ["127.0.0.1", "localhost"] {
        let asked = || get(&format!("http://{host}:{}/", address.port()));
        assert!(wire.dial(asked()).await.is_ok(), "{host}");
        let error = wire.dial(WireParts { private: false, ..asked() }).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (Reason::AddressNotAllowed, Sent::No), "{host}");
        assert!(error.hint.unwrap().contains("`private = true` at the endpoint"), "{host}");
    }
}

/// A server of names that answers with an allowed address, and then with another: what was checked is dialled, for
/// nothing asks again between the two.
#[tokio::test]
async fn checked_address_is_the_one_that_is_dialled() {
    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    let address = serve_all(|_| ([("connection", "close")], "here")).await;
    let port = address.port();
    let network = NetworkExceptions {
        private: vec![format!("127.0.0.1/32:{port}").parse().unwrap()],
        http: vec![format!("rebinding.example:{port}").parse().unwrap()],
    };
    let lookup: Lookup = Arc::new(|_| {
        let found = if LOOKUPS.fetch_add(1, Ordering::SeqCst) == 0 { "127.0.0.1:0" } else { "127.0.0.2:0" };
        Box::pin(async { Ok(vec![found.parse().unwrap()]) })
    });
    let connect_timeout = Duration::from_secs(5);
    let config = WireConfig { network, authorities: Vec::new(), connect_timeout };
    let wire = HttpWire::looking_up(config, lookup).unwrap();
    let url = format!("http://rebinding.example:{port}/");
    assert_eq!(whole(wire.dial(get(&url)).await.unwrap()).await.unwrap(), b"here");
    assert_eq!(LOOKUPS.load(Ordering::SeqCst), 1);
    let error = wire.dial(get(&url)).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::AddressNotAllowed, Sent::No));
    assert_eq!(LOOKUPS.load(Ordering::SeqCst), 2);
}

/// Runs itself again in a process of its own, which opens every file that it may.
#[tokio::test]
async fn process_without_file_descriptors_says_so() {
    const NAME: &str = "wire::tests::process_without_file_descriptors_says_so";
    const ALONE: &str = "KEYWARD_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        let output = test.env(ALONE, "1").args(["--exact", NAME]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let address = serve_all(|_| "here").await;
    let wire = wire(exceptions(address));
    let few = rustix::process::Rlimit { current: Some(64), maximum: Some(64) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    let all: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    let error = wire.dial(get(&format!("http://{address}/"))).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::Internal, Sent::No), "{}", error.message);
    assert!(error.hint.unwrap().contains("ulimit -n"));
    drop(all);
    assert!(wire.dial(get(&format!("http://{address}/"))).await.is_ok());
}

#[tokio::test]
async fn refused_connection_sent_nothing() {
    // Bound and dropped: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = wire(exceptions(address)).dial(get(&format!("http://{address}/?q=canary"))).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::Unreachable, Sent::No));
    assert_eq!(error.message, "127.0.0.1 cannot be reached: connection refused");
}

#[tokio::test]
async fn unknown_name_sent_nothing() {
    let error = wire(NetworkExceptions::default()).dial(get("https://keyward.invalid/?q=canary")).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::NameUnresolved, Sent::No));
    assert!(!format!("{error:?}").contains("canary"));
}

#[tokio::test]
async fn silent_server_times_out_and_may_have_acted() {
    let address = serve(Router::new().fallback(any(|| async {
        std::future::pending::<()>().await;
        StatusCode::OK
    })))
    .await;
    let mut parts = get(&format!("http://{address}/?q=canary"));
    parts.limits.timeout = Duration::from_millis(50);
    let error = wire(exceptions(address)).dial(parts).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::Timeout, Sent::Maybe));
    assert!(!format!("{error:?}").contains("canary"));
}

#[tokio::test]
async fn server_that_stops_within_its_answer_times_out() {
    let address = serve_all(|_| {
        let first = stream::once(async { Ok::<_, std::convert::Infallible>(Bytes::from_static(b"first")) });
        axum::body::Body::from_stream(first.chain(stream::pending()))
    })
    .await;
    let mut parts = get(&format!("http://{address}/"));
    parts.limits.timeout = Duration::from_millis(100);
    let mut body = wire(exceptions(address)).dial(parts).await.unwrap().body;
    assert_eq!(body.next().await.unwrap().unwrap(), "first");
    let error = body.next().await.unwrap().unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::Timeout, Sent::Yes));
}

#[tokio::test]
async fn connection_that_breaks_tells_how_far_it_came() {
    for (bytes, reason, sent) in [
        (&b""[..], Reason::Unreachable, Sent::Maybe),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Reason::Unreachable, Sent::Maybe),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Reason::ResponseMalformed, Sent::Yes),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfour", Reason::Unreachable, Sent::Yes),
    ] {
        let address = serve_bytes(bytes).await;
        let error = match wire(exceptions(address)).dial(get(&format!("http://{address}/"))).await {
            Ok(response) => whole(response).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!((error.reason, error.sent), (reason, sent), "{}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn answer_with_too_many_headers_is_refused() {
    let many: Vec<(String, &str)> = (0..=MAX_RESPONSE_HEADERS).map(|n| (format!("x-{n}"), "v")).collect();
    let long = vec![("x-long".to_owned(), &*"v".repeat(MAX_RESPONSE_HEADER_BYTES).leak())];
    for headers in [many, long] {
        let address = serve_all(move |_| {
            headers
                .iter()
                .fold(Response::builder(), |response, (name, value)| response.header(name, *value))
                .body(String::new())
                .unwrap()
        })
        .await;
        let error = wire(exceptions(address)).dial(get(&format!("http://{address}/"))).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (Reason::ResponseMalformed, Sent::Yes));
    }
}

/// "hello" in gzip.
const GZIP_HELLO: [u8; 25] =
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36, 5, 0, 0, 0];

#[tokio::test]
async fn answer_is_decoded_and_its_headers_are_those_of_the_plain_body() {
    let address = serve_all(|_| {
        let headers = [
            ("content-encoding", "gzip"),
            ("content-length", "25"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("set-cookie", "session=canary"),
            ("alt-svc", "h3=\":443\""),
            ("x-stays", "1"),
        ];
        (headers, GZIP_HELLO.to_vec())
    })
    .await;
    let response = wire(exceptions(address)).dial(get(&format!("http://{address}/"))).await.unwrap();
    let names: Vec<&str> = response.headers.keys().map(HeaderName::as_str).filter(|&name| name != "date").collect();
    assert_eq!(names, ["content-type", "x-stays"]);
    assert_eq!(whole(response).await.unwrap(), b"hello");
}

#[tokio::test]
async fn part_of_a_body_is_asked_for_plain() {
    let address = serve_all(|request: Request| request.headers()["accept-encoding"].to_str().unwrap().to_owned()).await;
    let mut parts = get(&format!("http://{address}/"));
    parts.headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-9"));
    let response = wire(exceptions(address)).dial(parts).await.unwrap();
    assert_eq!(whole(response).await.unwrap(), b"identity");
}

#[tokio::test]
async fn body_that_announces_too_much_is_refused_by_its_head() {
    let address = serve_all(|_| vec![b'a'; 1000]).await;
    let mut parts = get(&format!("http://{address}/"));
    parts.limits.response_bytes = 999;
    let error = wire(exceptions(address)).dial(parts).await.unwrap_err();
    assert_eq!((error.reason, error.limit, error.sent), (Reason::TooLarge, Some(999), Sent::Yes));
    // A HEAD tells the length of what it does not send.
    let mut parts = get(&format!("http://{address}/"));
    parts.limits.response_bytes = 999;
    parts.method = Method::HEAD;
    let response = wire(exceptions(address)).dial(parts).await.unwrap();
    assert_eq!(response.headers["content-length"], "1000");
    assert_eq!(whole(response).await.unwrap(), b"");
}

/// Answers with what was said about the length, and the body.
async fn echo() -> SocketAddr {
    serve(Router::new().fallback(any(|request: Request| async move {
        let length = request.headers().get("content-length").cloned();
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap_or_default();
        (length.map(|length| [("x-length", length)]), body)
    })))
    .await
}

fn streamed(length: Option<u64>, chunks: Vec<Result<&'static str, SendError>>) -> Body {
    let chunks = chunks.into_iter().map(|chunk| chunk.map(|text| Bytes::from_static(text.as_bytes())));
    Body::Stream { length, chunks: Box::pin(stream::iter(chunks)) }
}

#[tokio::test]
async fn bodies_arrive_whole_and_streamed() {
    let address = echo().await;
    let wire = wire(exceptions(address));
    for (body, length) in [
        (Body::Empty, None),
        (Body::Bytes(Bytes::from_static(b"onetwo")), Some("6")),
        (streamed(Some(6), vec![Ok("one"), Ok("two")]), Some("6")),
        (streamed(None, vec![Ok("one"), Ok("two")]), None),
    ] {
        let expected = if matches!(body, Body::Empty) { "" } else { "onetwo" };
        let parts = WireParts { method: Method::PUT, body, ..get(&format!("http://{address}/")) };
        let response = wire.dial(parts).await.unwrap();
        if !expected.is_empty() {
            assert_eq!(response.headers.get("x-length").map(|value| value.to_str().unwrap()), length);
        }
        assert_eq!(whole(response).await.unwrap(), expected.as_bytes());
    }
}

/// RFC 9110 section 8.6; some servers answer 411 to a POST that does not say that it has no body.
#[tokio::test]
async fn absent_body_has_a_length_where_the_method_expects_one() {
    let address = echo().await;
    let wire = wire(exceptions(address));
    for (method, length) in [
        (Method::POST, Some("0")),
        (Method::PUT, Some("0")),
        (Method::PATCH, Some("0")),
        (Method::from_bytes(b"PROPFIND").unwrap(), Some("0")),
        (Method::GET, None),
        (Method::OPTIONS, None),
        (Method::DELETE, None),
    ] {
        for body in [Body::Empty, Body::Bytes(Bytes::new())] {
            let parts = WireParts { method: method.clone(), body, ..get(&format!("http://{address}/")) };
            let response = wire.dial(parts).await.unwrap();
            let said = response.headers.get("x-length").map(|value| value.to_str().unwrap());
            assert_eq!(said, length, "{method}");
        }
    }
}

#[tokio::test]
async fn large_body_in_one_piece_arrives_whole_and_with_its_length() {
    let address = echo().await;
    let body: Vec<u8> = (0..3 * UPLOAD_SLICE + 7).map(|n| (n % 251) as u8).collect();
    let parts = WireParts {
        method: Method::POST,
        body: Body::Bytes(body.clone().into()),
        ..get(&format!("http://{address}/"))
    };
    let response = wire(exceptions(address)).dial(parts).await.unwrap();
    assert_eq!(response.headers["x-length"], body.len().to_string());
    assert!(whole(response).await.unwrap() == body);
}

/// A server that takes three times as long as the timeout to read a body, and never stops.
#[tokio::test]
async fn large_body_in_one_piece_may_take_longer_than_the_timeout() {
    const PIECES: usize = 60;
    const PIECE: usize = 256 * 1024;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Little is on the way, so that the client goes at the server's pace.
    socket.set_recv_buffer_size(PIECE as u32).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut piece = vec![0; PIECE];
        for _ in 0..PIECES {
            stream.read_exact(&mut piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        // The head of the request came before its body, so as much of the body is still to be read.
        let _ = stream.read(&mut piece).await;
    });
    let mut parts = get(&format!("http://{address}/"));
    parts.method = Method::PUT;
    parts.body = Body::Bytes(vec![b'a'; PIECES * PIECE].into());
    parts.limits.timeout = Duration::from_secs(1);
    assert_eq!(wire(exceptions(address)).dial(parts).await.unwrap().status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn streamed_body_that_breaks_off_or_lies_about_its_length_is_an_error() {
    let address = echo().await;
    let wire = wire(exceptions(address));
    let broken = SendError::new(SendErrorKind::TooLarge { limit: 5 }, Reason::TooLarge, "the body is too large");
    for (body, reason) in [
        (streamed(None, vec![Ok("one"), Err(broken)]), Reason::TooLarge),
        (streamed(Some(7), vec![Ok("one"), Ok("two")]), Reason::Internal),
        (streamed(Some(5), vec![Ok("one"), Ok("two")]), Reason::Internal),
    ] {
        let parts = WireParts { method: Method::POST, body, ..get(&format!("http://{address}/")) };
        let error = wire.dial(parts).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (reason, Sent::Maybe), "{}", error.message);
    }
}

#[tokio::test(start_paused = true)]
async fn upload_may_take_longer_than_the_timeout_as_long_as_it_moves() {
    let progress = Progress::default();
    let step = Duration::from_secs(6);
    let moving = async {
        for _ in 0..5 {
            tokio::time::sleep(step).await;
            progress.made();
        }
    };
    assert!(progress.watch(Duration::from_secs(10), moving).await.is_some());
    let stuck = tokio::time::sleep(Duration::from_secs(11));
    assert!(progress.watch(Duration::from_secs(10), stuck).await.is_none());
}

/// A certificate for `localhost` of an authority of its own, for a server that speaks these versions; with its root.
fn server_config(versions: &[&'static rustls::SupportedProtocolVersion]) -> (rustls::ServerConfig, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    (config, certificate.pem())
}

/// A TLS server; gives back its address and root.
fn serve_tls(versions: &[&'static rustls::SupportedProtocolVersion]) -> (SocketAddr, String) {
    let (config, root) = server_config(versions);
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let mut request = [0; 4096];
            // A client that does not trust the certificate ends the handshake here.
            if stream.read(&mut request).is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
                let _ = stream.flush();
            }
        }
    });
    (address, root)
}

fn authority(pem: &str, host: &str) -> Authority {
    let hosts = [host, "127.0.0.1"].map(|host| host.parse().unwrap()).into();
    Authority { pem: pem.as_bytes().to_vec(), hosts }
}

fn tls_wire(address: SocketAddr, roots: &[&str]) -> HttpWire {
    HttpWire::new(WireConfig {
        network: exceptions(address),
        authorities: roots.iter().map(|pem| authority(pem, "localhost")).collect(),
        connect_timeout: Duration::from_secs(5),
    })
    .unwrap()
}

#[tokio::test]
async fn certificate_must_be_of_a_trusted_authority_and_for_the_name() {
    let (address, root) = serve_tls(rustls::ALL_VERSIONS);
    let by_name = format!("https://localhost:{}/", address.port());
    let response = tls_wire(address, &[&root]).dial(get(&by_name)).await.unwrap();
    assert_eq!(whole(response).await.unwrap(), b"ok");

    let error = tls_wire(address, &[]).dial(get(&by_name)).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::TlsFailed, Sent::No));
    assert!(error.hint.unwrap().contains("authorities"));

    let error = tls_wire(address, &[&root]).dial(get(&format!("https://{address}/"))).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::TlsFailed, Sent::No));
}

/// Whoever has the key of a company's authority cannot pass for anybody else.
#[tokio::test]
async fn authority_of_the_operator_vouches_for_its_hosts_alone() {
    let (address, root) = serve_tls(rustls::ALL_VERSIONS);
    let wire = |hosts: &str| {
        let hosts = vec![hosts.parse().unwrap()];
        HttpWire::new(WireConfig {
            network: exceptions(address),
            authorities: vec![Authority { pem: root.as_bytes().to_vec(), hosts }],
            connect_timeout: Duration::from_secs(5),
        })
    };
    let by_name = format!("https://localhost:{}/", address.port());
    wire("localhost").unwrap().dial(get(&by_name)).await.unwrap();
    for other in ["*.corp.example", "other.example"] {
        let error = wire(other).unwrap().dial(get(&by_name)).await.unwrap_err();
        assert_eq!(error.reason, Reason::TlsFailed, "{other}");
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_where_the_server_has_nothing_newer() {
    let (address, root) = serve_tls(&[&rustls::version::TLS12]);
    let response =
        tls_wire(address, &[&root]).dial(get(&format!("https://localhost:{}/", address.port()))).await.unwrap();
    assert_eq!(whole(response).await.unwrap(), b"ok");
}

/// Accepts TLS connections on which HTTP/2 is spoken, and counts them.
struct Http2 {
    listener: TcpListener,
    tls: tokio_rustls::TlsAcceptor,
    accepted: Arc<AtomicUsize>,
}

impl axum::serve::Listener for Http2 {
    type Io = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, peer) = self.listener.accept().await.unwrap();
        let stream = self.tls.accept(stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        self.accepted.fetch_add(1, Ordering::SeqCst);
        (stream, peer)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A body without end.
struct Endless;

impl Stream for Endless {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(Bytes::from_static(&[b'a'; 16 * 1024]))))
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_up_no_other_request_of_an_http2_connection() {
    let (mut config, root) = server_config(rustls::ALL_VERSIONS);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let listener = Http2 { listener, tls: Arc::new(config).into(), accepted: accepted.clone() };
    let router = Router::new()
        .route("/endless", any(|| async { axum::body::Body::from_stream(Endless) }))
        .route("/small", any(|| async { "small" }));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let wire = tls_wire(address, &[&root]);
    let url = |path: &str| format!("https://localhost:{}{path}", address.port());
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(wire.dial(get(&url("/endless"))).await.unwrap());
    }
    // Until the server has sent as much as it may, or the connection would have been full.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let small = async { whole(wire.dial(get(&url("/small"))).await.unwrap()).await.unwrap() };
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), small).await.unwrap(), b"small");
    assert_eq!(accepted.load(Ordering::SeqCst), 1, "all requests went over one connection");
    drop(unread);
}

#[tokio::test]
async fn server_without_tls_is_not_spoken_to_as_if_it_had() {
    let address = serve_all(|_| "").await;
    let error = tls_wire(address, &[]).dial(get(&format!("https://{address}/"))).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::TlsFailed, Sent::No));
}

#[test]
fn broken_authority_is_named() {
    for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let config = WireConfig {
            network: NetworkExceptions::default(),
            authorities: vec![authority(pem, "localhost")],
            connect_timeout: Duration::from_secs(5),
        };
        assert!(matches!(HttpWire::new(config), Err(EgressError::Authority { number: 1, .. })), "{pem:?}");
    }
}
