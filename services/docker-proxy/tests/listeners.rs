//! The listeners of a real docker-proxy process, before a scripted engine: TLS, who is let in, and how it ends.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UnixListener, UnixStream},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};
use weft_lab::Authority;
use weft_proto::{
    client::{Service, channel},
    proxy::v1::{GetStatusRequest, container_service_client::ContainerServiceClient},
};

const PATIENCE: Duration = Duration::from_secs(10);

const PING: &str = "GET /_ping HTTP/1.1\r\nHost: docker.example\r\n\r\n";

/// Answers each request, and leaves the stream of events open.
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
const EVENTS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n";

/// A docker-proxy process, and all that it has; ends with this.
struct Setting {
    folder: tempfile::TempDir,
    process: Child,
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Setting {
    async fn start(folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        let command = command(folder.path(), arguments);
        Self::run(folder, command).await
    }

    async fn run(folder: tempfile::TempDir, mut command: Command) -> Self {
        let engine = UnixListener::bind(engine_socket(folder.path())).expect("the engine's socket can be bound");
        let mode = fs::Permissions::from_mode(0o620);
        fs::set_permissions(engine_socket(folder.path()), mode).expect("the mode can be set");
        // Only root can give it to somebody else.
        let _ = chown(engine_socket(folder.path()), Some(4321), Some(1234));
        tokio::spawn(play_engine(engine));
        let process = command.spawn().expect("docker-proxy starts");
        let socket = Service::DockerProxy.socket(folder.path());
        let ready = timeout(PATIENCE, async {
            while weft_service::check(&socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        ready.await.expect("docker-proxy gets ready");
        Self { folder, process }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Asks where the Docker API is offered: the address, whether by TLS, and whether with certificates of clients.
    async fn offers(&self) -> Vec<(String, bool, bool)> {
        let channel = channel(&Service::DockerProxy.socket(self.folder.path()));
        let status = ContainerServiceClient::new(channel).get_status(GetStatusRequest {}).await;
        let listeners = status.expect("answered").into_inner().listeners;
        listeners.into_iter().map(|offer| (offer.address, offer.tls, offer.client_certificates)).collect()
    }
}

fn engine_socket(folder: &Path) -> PathBuf {
    folder.join("engine.sock")
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-docker-proxy"));
    command.env_clear().stdin(Stdio::null()).args(arguments);
    command.args(["--http-addr", "off"]);
    command.arg("--socket-folder").arg(folder).arg("--shim-folder").arg(folder.join("shim"));
    command.arg("--engine-socket").arg(engine_socket(folder));
    command
}

/// Runs docker-proxy with arguments that it must refuse, and returns what it says.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = command(folder, arguments).output().expect("docker-proxy starts");
    assert_eq!(status.code(), Some(1));
    String::from_utf8_lossy(&stderr).lines().last().unwrap_or_default().to_owned()
}

async fn play_engine(listener: UnixListener) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        tokio::spawn(async move {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or_default();
            if request[..length].starts_with(b"GET /client-events") {
                let _ = stream.write_all(EVENTS.as_bytes()).await;
                let _ = stream.read(&mut request).await;
            } else {
                let _ = stream.write_all(OK.as_bytes()).await;
            }
        });
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// Returns an address of the loopback that nobody uses.
fn free_address() -> SocketAddr {
    let listener = StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("an address")
}

fn authority(name: &str) -> Authority {
    Authority::new(name).expect("there is randomness")
}

fn client_config(
    trusted: &Authority,
    own: Option<&Path>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).expect("PEM")).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("known versions")
        .with_root_certificates(roots);
    match own {
        None => config.with_no_client_auth(),
        Some(folder) => {
            let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).expect("a certificate");
            let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).expect("a key");
            config.with_client_auth_cert(vec![certificate], key).expect("they fit")
        }
    }
}

async fn connect(address: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::from(address.ip());
    timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.expect("in time")
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str, length: usize) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Connects by TLS and has a request answered.
async fn ping(address: SocketAddr, config: ClientConfig) -> std::io::Result<String> {
    ask(connect(address, config).await?, PING, OK.len()).await
}

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

#[tokio::test]
async fn only_clients_with_a_certificate_are_let_in() {
    let (folder, address) = (folder(), free_address());
    let (ours, foreign) = (authority("ours"), authority("foreign"));
    let certificates = folder.path().join("certificates");
    ours.write(&certificates, &["127.0.0.1"]).expect("written");
    let (client, stranger) = (folder.path().join("client"), folder.path().join("stranger"));
    ours.write(&client, &[]).expect("written");
    foreign.write(&stranger, &[]).expect("written");
    let file = |option: &str, name: &str| format!("--{option}={}", certificates.join(name).display());
    let setting = Setting::start(
        folder,
        &[
            &format!("-H=tcp://{address}"),
            "--tlsverify",
            &file("tlscacert", "ca.pem"),
            &file("tlscert", "cert.pem"),
            &file("tlskey", "key.pem"),
        ],
    )
    .await;

    for versions in [&BOTH[..], &[&TLS12], &[&TLS13]] {
        let answer = ping(address, client_config(&ours, Some(&client), versions)).await;
        assert_eq!(answer.expect("answered"), OK);
        let error = ping(address, client_config(&ours, None, versions)).await.expect_err("no certificate").to_string();
        assert!(error.to_lowercase().contains("certificate") || error.contains("Handshake"), "{error}");
        let error = ping(address, client_config(&ours, Some(&stranger), versions)).await.expect_err("foreign");
        assert!(error.to_string().contains("UnknownCA"), "{error}");
    }

    // Without TLS.
    let mut plain = TcpStream::connect(address).await.expect("accepted");
    plain.write_all(PING.as_bytes()).await.expect("sent");
    plain.shutdown().await.expect("ended");
    let mut answer = String::new();
    timeout(PATIENCE, plain.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("DOCKER_TLS_VERIFY=1"), "{answer}");

    // TLS 1.1: the answer is the alert protocol_version (RFC 8446, section 6).
    let mut old = TcpStream::connect(address).await.expect("accepted");
    old.write_all(&old_hello()).await.expect("sent");
    let mut alert = Vec::new();
    timeout(PATIENCE, old.read_to_end(&mut alert)).await.expect("in time").expect("an alert");
    assert!(matches!(alert[..], [21, 3, _, 0, 2, 2, 70]), "{alert:?}");

    // Certificates that change are used at once.
    let replaced = authority("replaced");
    replaced.write(&setting.path("certificates"), &["127.0.0.1"]).expect("written");
    replaced.write(&setting.path("client"), &[]).expect("written");
    let config = || client_config(&replaced, Some(&client), &BOTH);
    assert_eq!(ping(address, config()).await.expect("answered"), OK);
    assert!(ping(address, client_config(&replaced, Some(&stranger), &BOTH)).await.is_err());
    fs::write(setting.path("certificates/key.pem"), "no key").expect("written");
    assert_eq!(ping(address, config()).await.expect("answered with those before"), OK);

    // A stop ends a stream after all that was sent.
    let mut stream = connect(address, config()).await.expect("let in");
    let request = "GET /client-events HTTP/1.1\r\nHost: d\r\n\r\n";
    assert_eq!(ask(&mut stream, request, EVENTS.len()).await.expect("answered"), EVENTS);
    let pid = setting.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("run").success());
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time");
    ended.expect("neither a reset nor an end without notice");
    assert_eq!(rest, b"", "more than was sent");
    drop(stream);
    let mut setting = setting;
    let exited = tokio::task::spawn_blocking(move || setting.process.wait().map(|status| status.code()));
    let exited = timeout(PATIENCE, exited).await.expect("in time").expect("no panic");
    assert_eq!(exited.expect("it ends"), Some(0));
}

/// Connects from an address of the loopback.
async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((source, 0).into()).expect("the loopback has the address");
    socket.connect(address).await.expect("accepted")
}

#[tokio::test]
async fn strangers_that_say_nothing_keep_nobody_out() {
    let (folder, address, ours) = (folder(), free_address(), authority("ours"));
    ours.write(folder.path(), &["127.0.0.1"]).expect("written");
    let file = |option: &str, name: &str| format!("--{option}={}", folder.path().join(name).display());
    let arguments = [
        format!("-H=tcp://{address}"),
        "--tlsverify".to_owned(),
        file("tlscacert", "ca.pem"),
        file("tlscert", "cert.pem"),
        file("tlskey", "key.pem"),
    ];
    let setting = Setting::start(folder, &arguments.each_ref().map(String::as_str)).await;
    let config = || client_config(&ours, Some(setting.folder.path()), &BOTH);

    // One that takes its time, from elsewhere than the strangers that come after it.
    let slow = connect_from(Ipv4Addr::new(127, 0, 0, 2), address).await;
    let mut strangers = Vec::new();
    for _ in 0..600 {
        strangers.push(connect_from(Ipv4Addr::new(127, 0, 0, 1), address).await);
    }
    // Sooner than the strangers' time is over.
    let soon = Duration::from_secs(5);
    let answer = timeout(soon, ping(address, config())).await.expect("strangers keep a client out");
    assert_eq!(answer.expect("answered"), OK);
    let name = ServerName::from(address.ip());
    let slow = TlsConnector::from(Arc::new(config())).connect(name, slow).await.expect("strangers displace a client");
    assert_eq!(ask(slow, PING, OK.len()).await.expect("answered"), OK);
    // The oldest made room, and the others have their time.
    let mut oldest = strangers.swap_remove(0);
    let ended = timeout(soon, oldest.read(&mut [0])).await.expect("room is made soon");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let newest = strangers.last_mut().expect("there are many");
    assert!(futures::poll!(std::pin::pin!(newest.read(&mut [0]))).is_pending());
}

/// The start of a client that knows TLS up to 1.1 (RFC 4346, section 7.4.1.2).
fn old_hello() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    // No session; two suites; no compression; the signatures that it knows, which no server does without.
    hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0, 0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut message = vec![1, 0, 0, u8::try_from(hello.len()).expect("short")];
    message.extend(hello);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).expect("short")];
    record.extend(message);
    record
}

#[tokio::test]
async fn tls_alone_asks_for_no_certificate() {
    let (folder, address, ours) = (folder(), free_address(), authority("ours"));
    ours.write(folder.path(), &["127.0.0.1"]).expect("written");
    let file = |option: &str, name: &str| format!("--{option}={}", folder.path().join(name).display());
    let arguments =
        [format!("-H=tcp://{address}"), "--tls".to_owned(), file("tlscert", "cert.pem"), file("tlskey", "key.pem")];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let open = arguments.iter().map(|argument| argument.replace("127.0.0.1", "0.0.0.0")).collect::<Vec<_>>();
    let open: Vec<_> = open.iter().map(String::as_str).collect();
    let error = refused(folder.path(), &open);
    assert!(error.contains("--tls asks clients for no certificate"), "{error}");
    let setting = Setting::start(folder, &arguments).await;
    let config = || client_config(&ours, None, &BOTH);
    let local = PING.replace("docker.example", "localhost");
    let answer = ask(connect(address, config()).await.expect("let in"), &local, OK.len()).await;
    assert_eq!(answer.expect("answered"), OK);
    assert_eq!(setting.offers().await[1], (format!("tcp://{address}"), true, false));
    // As without TLS, it could be a web page that asks.
    let says = ping(address, config()).await.expect("answered");
    assert!(says.starts_with("HTTP/1.1 403 "), "{says}");
}

#[tokio::test]
async fn the_environment_is_read_as_dockerd_reads_it() {
    let (folder, address, ours) = (folder(), free_address(), authority("ours"));
    let certificates = folder.path().join("certificates");
    ours.write(&certificates, &["127.0.0.1"]).expect("written");
    let mut command = command(folder.path(), &[&format!("-H=tcp://{address}")]);
    // dockerd too takes this for true.
    command.env("DOCKER_TLS_VERIFY", "0").env("DOCKER_CERT_PATH", &certificates);
    let setting = Setting::run(folder, command).await;
    let answer = ping(address, client_config(&ours, Some(&certificates), &BOTH)).await;
    assert_eq!(answer.expect("answered"), OK);
    assert!(ping(address, client_config(&ours, None, &BOTH)).await.is_err());
    let socket = format!("unix://{}", setting.path("docker/docker.sock").display());
    assert_eq!(setting.offers().await, [(socket, false, false), (format!("tcp://{address}"), true, true)]);
}

#[tokio::test]
async fn every_address_is_served_and_no_other() {
    let (folder, addresses) = (folder(), [free_address(), free_address()]);
    let other = folder.path().join("other/docker.sock");
    let arguments = [
        format!("--host=unix://{}", other.display()),
        format!("--host=tcp://{},tcp://{}", addresses[0], addresses[1]),
        "--no-detect-tls".to_owned(),
    ];
    let mut setting = Setting::start(folder, &arguments.each_ref().map(String::as_str)).await;
    let who_may = |socket: &Path| {
        let socket = fs::metadata(socket).expect("it is there");
        (socket.uid(), socket.gid(), socket.mode() & 0o777)
    };
    let engine = who_may(&engine_socket(setting.folder.path()));
    assert_eq!(engine.2, 0o620);
    for socket in [&other, &setting.path("docker/docker.sock")] {
        assert_eq!(who_may(socket), engine);
        let stream = UnixStream::connect(socket).await.expect("served");
        assert_eq!(ask(stream, PING, OK.len()).await.expect("answered"), OK);
    }
    let local = PING.replace("docker.example", "127.0.0.1");
    for address in addresses {
        let stream = TcpStream::connect(address).await.expect("served");
        assert_eq!(ask(stream, &local, OK.len()).await.expect("answered"), OK);
    }
    assert!(setting.process.try_wait().expect("known").is_none());

    // What others have is left to them.
    let second = self::folder();
    let (taken, socket) = (format!("tcp://{}", addresses[0]), format!("unix://{}", other.display()));
    let file = second.path().join("a-file");
    fs::write(&file, "kept").expect("written");
    for (address, says) in [
        (taken.as_str(), "is the port in use"),
        (&socket, "another process serves"),
        (&format!("unix://{}", file.display()), "is no socket"),
        ("tcp://0.0.0.0", "--insecure-tcp"),
    ] {
        let error = refused(second.path(), &["--no-detect-tls", "-H", address]);
        assert!(error.starts_with("weft-docker-proxy: ") && error.contains(says), "{error}");
    }
    assert_eq!(fs::read_to_string(file).expect("kept"), "kept");
}
