//! What clients and engines say by the Docker API.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncWriteExt as _, join, sink},
    net::UnixStream,
};
use weft_docker_proxy::relay::{Answer, Interceptor, Request, RequestHead, exchange, serve};
use weft_docker_proxy_core::{
    Container, CreateRequest, ImageConfig, address, commit, create,
    eligibility::{self, Policy},
    events,
    hostname::HostnameRule,
    inspect::Inspection,
    list, names, route, top, weave_api,
};
use weft_service::Shutdown;

use crate::{
    Bounds, Target,
    input::{Input, piece},
};

/// Bytes of a client: heads, bodies with and without chunks, several requests. What is passed on must be read as it was.
pub(crate) const REQUESTS: Target = Target {
    name: "docker-requests",
    bounds: Bounds { memory_bytes: 4 << 20, allocations: 50_000 },
    run: requests,
    seeds: request_seeds,
};

/// Bytes of an engine, after a request.
pub(crate) const RESPONSES: Target = Target {
    name: "docker-responses",
    bounds: Bounds { memory_bytes: 4 << 20, allocations: 50_000 },
    run: responses,
    seeds: response_seeds,
};

/// Bodies that are rewritten or looked into, and what follows from them.
pub(crate) const BODIES: Target = Target {
    name: "docker-bodies",
    bounds: Bounds { memory_bytes: 4 << 20, allocations: 100_000 },
    run: bodies,
    seeds: body_seeds,
};

/// What was seen of a request.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    body: Vec<u8>,
}

/// Looks into every request.
struct Looking {
    /// What came, and the bytes that would go to the engine.
    seen: Mutex<Vec<(Seen, Vec<u8>)>>,
    /// What the engine says, to each request; nothing: it is not asked.
    engine: Option<Vec<u8>>,
}

impl Interceptor for Looking {
    fn refuses(&self, request: &RequestHead) -> Option<String> {
        let method = Method::from_bytes(request.method.as_bytes()).ok()?;
        let _ = route::classify(&method, &request.target);
        let target = &request.target;
        let _ =
            weave_api::Call::read(weave_api::Request { method: &method, target, accepts_json: false, form: target });
        None
    }

    fn wants(&self, _method: &str, _target: &str) -> bool {
        true
    }

    async fn answer(&self, request: &Request) -> Answer {
        let head = &request.head;
        let seen = Seen { method: head.method.clone(), target: head.target.clone(), body: request.body.clone() };
        let passed = [head.head.with_length(request.body.len()), request.body.clone()].concat();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((seen, passed));
        let answer = async |engine: &[u8]| {
            let (ours, mut theirs) = UnixStream::pair()?;
            theirs.write_all(engine).await?;
            theirs.shutdown().await?;
            exchange(ours, request, &request.body).await
        };
        match &self.engine {
            None => Answer::error(400, "nobody is asked"),
            Some(engine) => match answer(engine).await {
                Ok((response, body)) => Answer::of_engine(&response, body),
                Err(error) => Answer::error(502, &error.to_string()),
            },
        }
    }

    fn answered(&self, _method: &str, _target: &str, _status: u16, _added: Duration) {}
}

/// Serves a client that sends these bytes and leaves.
fn look(client: &[u8], engine: Option<Vec<u8>>) -> Vec<(Seen, Vec<u8>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let looking = Looking { seen: Mutex::default(), engine };
    let (_end, shutdown) = Shutdown::triggered();
    runtime.block_on(serve(join(client, sink()), Path::new("/nowhere"), &looking, &shutdown));
    looking.seen.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn requests(input: &[u8]) {
    for (seen, passed) in look(input, None) {
        let mut again = look(&passed, None).into_iter();
        assert_eq!(again.next().map(|(seen, _)| seen), Some(seen), "the engine reads what was looked at");
        assert!(again.next().is_none(), "and nothing more");
    }
}

fn request_seeds() -> Vec<Vec<u8>> {
    let requests: [&[u8]; 7] = [
        b"GET /v1.41/containers/json?all=1 HTTP/1.1\r\nHost: docker\r\n\r\n",
        b"POST /containers/create?name=db HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"Image\":\"db\"}\nGET / HTTP/1.1\r\n\r\n",
        b"POST /build HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nweft\r\n1;ext=1\r\n!\r\n0\r\nTrailer: x\r\n\r\n",
        b"POST /exec/1/start HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /_ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\nHEAD /_ping HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"DELETE /containers/%64b HTTP/1.1\nHost: d\n\n",
    ];
    requests.map(<[u8]>::to_vec).to_vec()
}

fn responses(input: &[u8]) {
    let requests: [&[u8]; 2] = [b"GET / HTTP/1.1\r\nHost: d\r\n\r\n", b"HEAD / HTTP/1.1\r\nHost: d\r\n\r\n"];
    let mut input = Input::new(input);
    let request = requests[usize::from(input.byte() & 1)];
    look(request, Some(input.rest().to_vec()));
}

fn response_seeds() -> Vec<Vec<u8>> {
    let responses: [&[u8]; 5] = [
        b"\0HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"\0HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n",
        b"\0HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 Not Found\r\n\r\n{\"message\":\"no\"}",
        b"\x01HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n",
        b"\0HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
    ];
    responses.map(<[u8]>::to_vec).to_vec()
}

fn bodies(input: &[u8]) {
    let mut input = Input::new(input);
    let what = input.byte();
    let (first, second) = (input.piece(), input.rest());
    match what % 8 {
        0 => created(first, second, what & 8 != 0),
        1 => rewritten(commit::rewrite(first, second).ok().flatten()),
        2 => {
            if let Ok(inspection) = Inspection::restore(first) {
                let _ = inspection.container();
                rewritten(inspection.into_reply());
            }
        }
        3 => {
            rewritten(list::restore(first).ok().flatten());
            let _ = list::waiting(first);
        }
        4 => rewritten(list::restore_disk_usage(first).ok().flatten()),
        5 => rewritten(top::restore(first).ok().flatten()),
        6 => {
            if let Ok(container) = Container::parse(first) {
                let _ = eligibility::of_container(&container);
                let _ = eligibility::refuses_attaching(&container);
                let _ = eligibility::refuses_control(&container, "/var/run/docker.sock");
                let _ = names::of_container(&container, "weft.internal");
            }
        }
        _ => {
            let _ = events::parse(first);
            let _ = std::str::from_utf8(second).map(address::parse_list);
        }
    }
}

/// Looks into a container's creation as the proxy does, and again at what came of it: nothing is put in twice.
fn created(body: &[u8], image: &[u8], user_namespaces: bool) {
    let (Ok(request), Ok(image)) = (CreateRequest::parse(body, Some("db")), ImageConfig::parse(image)) else { return };
    let policy = Policy { engine_socket: "/var/run/docker.sock".to_owned(), without_asking: true };
    let _ = (request.network(), eligibility::of_request(&request, &image, None, &policy));
    let options = options();
    let Ok(once) = create::rewrite(&request, &image, &options, user_namespaces) else { return };
    let again = CreateRequest::parse(&once, Some("db")).expect("what is sent is a request");
    let twice = create::rewrite(&again, &image, &options, user_namespaces).expect("what was rewritten can be");
    let [once, twice] = [once, twice].map(|body| folded(serde_json::from_slice(&body).expect("what is sent is JSON")));
    assert_eq!(twice, once, "nothing is put in twice");
}

/// Writes keys as the engine compares them: without regard to case.
fn folded(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            Value::Object(object.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), folded(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(folded).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

fn options() -> create::Options {
    let hostname = HostnameRule::new(None, ".*", String::new()).expect("a rule");
    let dns = create::Dns { address: [169, 254, 83, 53].into(), domain: "weft.internal".to_owned(), hostname };
    create::Options { shim_host_path: "/var/lib/weft/shim/1/weft-wait".to_owned(), dns: Some(dns) }
}

/// What replaces a body is JSON again.
fn rewritten(body: Option<Vec<u8>>) {
    if let Some(body) = body {
        assert!(serde_json::from_slice::<Value>(&body).is_ok());
    }
}

fn body_seeds() -> Vec<Vec<u8>> {
    let seed =
        |what: u8, first: &str, second: &str| [&[what][..], &piece(first.as_bytes()), second.as_bytes()].concat();
    let config = r#"{"Image":"db","Cmd":["sh","-c","true"],"Hostname":"x","Env":["WEFT_CIDR=10.32.1.1/24"],"Labels":{"weft.network":"none"},"HostConfig":{"NetworkMode":"bridge","Binds":["/a:/b"],"Dns":["1.1.1.1"]}}"#;
    let image = r#"{"Config":{"Entrypoint":["/run"],"Cmd":["x"],"WorkingDir":"/"}}"#;
    let options = options();
    let request = CreateRequest::parse(config.as_bytes(), Some("db")).expect("a request");
    let parsed = ImageConfig::parse(image.as_bytes()).expect("an image");
    let made = create::rewrite(&request, &parsed, &options, false).expect("a body");
    let made = String::from_utf8(made).expect("JSON is text");
    let id = "0123456789ab".repeat(5) + "0123";
    let inspect = format!(
        r#"{{"Id":"{id}","Name":"/db","State":{{"Running":true,"Pid":7}},"Config":{made},"HostConfig":{{"NetworkMode":"bridge"}},"NetworkSettings":{{"Networks":{{"bridge":{{"Aliases":["a"]}}}}}}}}"#
    );
    let listed = format!(r#"[{{"Id":"{id}","Names":["/db"],"Command":"/w sh","State":"running"}}]"#);
    let event =
        format!(r#"{{"Type":"container","Action":"start","Actor":{{"ID":"{id}","Attributes":{{"name":"db"}}}}}}"#);
    vec![
        seed(0, config, image),
        seed(8, &made, image),
        seed(1, &inspect, "{}"),
        seed(2, &inspect, ""),
        seed(3, &listed, ""),
        seed(4, &format!(r#"{{"Containers":{listed}}}"#), ""),
        seed(5, r#"{"Titles":["PID","CMD"],"Processes":[["1","/w sh"]]}"#, ""),
        seed(6, &inspect, ""),
        seed(7, &event, "net:default 10.2.1.1/24 net:10.3.0.0/16"),
    ]
}
