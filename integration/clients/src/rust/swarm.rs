//! Calls about a swarm of one host.

use bollard::{
    Docker,
    models::{ConfigSpec, NodeSpec, SecretSpec, ServiceSpec, SwarmInitRequest, SwarmJoinRequest},
    query_parameters::{
        LeaveSwarmOptionsBuilder, LogsOptionsBuilder, UpdateConfigOptionsBuilder, UpdateNodeOptionsBuilder,
        UpdateSecretOptionsBuilder, UpdateServiceOptionsBuilder, UpdateSwarmOptionsBuilder,
    },
};
use serde_json::{Value, json};

use super::{Calls, IMAGE, body, call, stream};

pub(super) async fn drive(docker: &Docker, to: &mut Calls) {
    call!(to, docker.list_nodes(None), "without a swarm");
    let init: SwarmInitRequest = body(json!({ "ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1" }));
    call!(to, docker.init_swarm(init));
    let swarm = call!(to, docker.inspect_swarm()).unwrap_or_default();
    let version = swarm.version.and_then(|version| version.index).unwrap_or_default();
    let version = i64::try_from(version).unwrap_or_default();
    let update = UpdateSwarmOptionsBuilder::default().version(version).build();
    call!(to, docker.update_swarm(swarm.spec.unwrap_or_default(), update));
    let join: SwarmJoinRequest = body(json!({ "RemoteAddrs": ["127.0.0.1:2378"], "JoinToken": "SWMTKN-1-no" }));
    call!(to, docker.join_swarm(join));
    nodes(docker, to).await;
    kept(docker, to).await;
    services(docker, to).await;
    call!(to, docker.leave_swarm(None), "without force");
    call!(to, docker.leave_swarm(Some(LeaveSwarmOptionsBuilder::default().force(true).build())));
}

async fn nodes(docker: &Docker, to: &mut Calls) {
    let nodes = call!(to, docker.list_nodes(None)).unwrap_or_default();
    let node = nodes.first().cloned().unwrap_or_default();
    let id = node.id.unwrap_or_default();
    call!(to, docker.inspect_node(&id));
    let spec: NodeSpec = body(json!({ "Role": "manager", "Availability": "active", "Labels": { "who": "me" } }));
    let version = node.version.and_then(|version| version.index).unwrap_or_default();
    let update = UpdateNodeOptionsBuilder::default().version(i64::try_from(version).unwrap_or_default()).build();
    call!(to, docker.update_node(&id, spec, update));
    call!(to, docker.delete_node(&id, None));
}

async fn kept(docker: &Docker, to: &mut Calls) {
    let spec = |who: &str| json!({ "Name": "kept", "Data": "ZGF0YQ==", "Labels": { "who": who } });
    call!(to, docker.create_secret(body::<SecretSpec>(spec("me"))));
    call!(to, docker.list_secrets(None));
    let secret = call!(to, docker.inspect_secret("kept")).unwrap_or_default();
    let version = secret.version.and_then(|version| version.index).unwrap_or_default();
    let update = UpdateSecretOptionsBuilder::default().version(i64::try_from(version).unwrap_or_default()).build();
    call!(to, docker.update_secret("kept", body::<SecretSpec>(spec("us")), update));
    call!(to, docker.delete_secret("kept"));
    call!(to, docker.create_config(body::<ConfigSpec>(spec("me"))));
    call!(to, docker.list_configs(None));
    let config = call!(to, docker.inspect_config("kept")).unwrap_or_default();
    let version = config.version.and_then(|version| version.index).unwrap_or_default();
    let update = UpdateConfigOptionsBuilder::default().version(i64::try_from(version).unwrap_or_default()).build();
    call!(to, docker.update_config("kept", body::<ConfigSpec>(spec("us")), update));
    call!(to, docker.delete_config("kept"));
}

async fn services(docker: &Docker, to: &mut Calls) {
    let spec = |replicas: u32| -> ServiceSpec {
        body(json!({
            "Name": "serving", "Mode": { "Replicated": { "Replicas": replicas } },
            "TaskTemplate": { "ContainerSpec": { "Image": IMAGE, "Command": ["sh", "-c", "echo serving; sleep 600"] } },
        }))
    };
    call!(to, docker.create_service(spec(1), None));
    call!(to, docker.list_services(None));
    let running = |tasks: &Value| tasks[0]["Status"]["State"] == "running";
    let mut tasks = Value::Null;
    // The library's own limit ends a call that fails; one that finds nothing yet is made again.
    while !running(&tasks) {
        match docker.list_tasks(None).await {
            Ok(found) => tasks = serde_json::to_value(found).unwrap_or_default(),
            Err(error) => return to.record("list_tasks", error.to_string()),
        }
    }
    to.record("list_tasks", tasks[0]["Spec"].clone());
    let task = tasks[0]["ID"].as_str().unwrap_or_default();
    call!(to, docker.inspect_task(task));
    let logs = || Some(LogsOptionsBuilder::default().stdout(true).build());
    stream!(to, docker.task_logs(task, logs()));
    stream!(to, docker.service_logs("serving", logs()));
    let service = call!(to, docker.inspect_service("serving", None)).unwrap_or_default();
    let version = service.version.and_then(|version| version.index).unwrap_or_default();
    let update = UpdateServiceOptionsBuilder::default().version(i32::try_from(version).unwrap_or_default()).build();
    call!(to, docker.update_service("serving", spec(0), update, None));
    call!(to, docker.delete_service("serving"));
}
