"""Drives every call of the Python library once, and prints what each came to.

One line of JSON for each call: its name and its outcome. Where the engine is, DOCKER_HOST says. A method of the library
that is not called here makes it fail.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import pathlib
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterable
from typing import Any

import docker
from docker.errors import APIError

IMAGE = "busybox"
WAIT = ["sh", "-c", "echo out; sleep 0.2; echo err >&2; trap 'exit 3' TERM; sleep 600 & wait"]
# What the library makes by itself, without asking the engine, or is made of.
OF_THE_LIBRARY = {
    "create_container_config", "create_endpoint_config", "create_host_config", "create_networking_config",
    "create_swarm_spec", "get_adapter", "reload_config",
}  # fmt: skip

client = docker.APIClient(base_url=os.environ["DOCKER_HOST"], timeout=60, version="auto")
called: set[str] = set()


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def members(data: bytes) -> list[Any]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [
            [m.name, m.mode, m.uid, m.gid, m.size, m.linkname]
            + ([hashlib.sha256(archive.extractfile(m).read()).hexdigest()[:11]] if m.isfile() and ".json" not in m.name else [])
            for m in sorted(archive.getmembers(), key=lambda m: m.name)
        ]


def plain(value: Any) -> Any:
    """What can be written as JSON, whatever the pieces in which it came."""
    if isinstance(value, bytes):
        return {"tar": members(value)} if value[257:262] == b"ustar" else value.decode("utf-8", "replace")
    if isinstance(value, (str, int, float, type(None))):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        items = list(value)
        if items and all(isinstance(item, bytes) for item in items):
            return plain(b"".join(items))
        if items and all(isinstance(item, tuple) for item in items):
            return [plain(b"".join(part or b"" for part in parts)) for parts in zip(*items)]
        return [plain(item) for item in items]
    return type(value).__name__


def record(name: str, outcome: Any) -> None:
    print(json.dumps({"call": name, "outcome": outcome}), flush=True)


def call(name: str, /, *arguments: Any, note: str = "", **options: Any) -> Any:
    """Calls a method, prints what it came to, and returns it; nothing if it failed."""
    called.add(name)
    label = f"{name} {note}".strip()
    try:
        result = getattr(client, name)(*arguments, **options)
        record(label, plain(result))
        return result
    except APIError as error:
        record(label, {"status": error.status_code, "says": error.explanation})
    except Exception as error:  # noqa: BLE001: whatever it is, it has to be the same
        record(label, {"error": type(error).__name__, "says": str(error)})
    return None


def converse(label: str, stream: Any, lines: list[bytes], half_close: bool = True) -> None:
    """Says lines to a process that answers each, ends the input, and prints all that came."""
    stream = getattr(stream, "_sock", stream)
    stream.settimeout(30)
    for line in lines:
        stream.sendall(line)
    if half_close:
        stream.shutdown(1)
    said = b""
    while chunk := stream.recv(65536):
        said += chunk
    stream.close()
    record(label, said.decode("utf-8", "backslashreplace"))


def system() -> None:
    for name in ("ping", "version", "info", "df"):
        call(name)
    call("events", since=1, until=2, decode=True)
    call("login", "somebody", password="secret", registry="http://127.0.0.1:9", reauth=True)


def images() -> None:
    call("images")
    call("images", all=True, quiet=True, note="quiet")
    call("inspect_image", IMAGE)
    call("inspect_image", "nothing", note="missing")
    call("history", IMAGE)
    call("tag", IMAGE, "tagged", "one")
    saved = b"".join(client.get_image("tagged:one"))
    call("get_image", "tagged:one")
    call("remove_image", "tagged:one")
    call("remove_image", "tagged:one", note="missing")
    call("load_image", saved)
    call("remove_image", "tagged:one", note="loaded")
    root = tar({"etc/greeting": b"hello\n"})
    call("import_image_from_data", root, repository="made", tag="data", changes=["ENV A=B"])
    with tempfile.NamedTemporaryFile() as file:
        file.write(root)
        file.flush()
        call("import_image", src=file.name, repository="made", tag="path")
        call("import_image_from_file", file.name, repository="made", tag="file")
    call("import_image_from_stream", io.BytesIO(root), repository="made", tag="stream")
    call("import_image_from_image", IMAGE, repository="made", tag="image")
    call("import_image_from_url", "http://127.0.0.1:9/root.tar", repository="made", tag="url")
    for tag in ("data", "path", "file", "stream"):
        call("inspect_image", f"made:{tag}", note=tag)
        call("remove_image", f"made:{tag}", note=tag)
    dockerfile = f"FROM {IMAGE}\nARG WORD\nRUN echo $WORD > /word\nCMD cat /word\n".encode()
    context = tar({"Dockerfile": dockerfile})
    for quiet in (False, True):
        call("build", fileobj=io.BytesIO(context), custom_context=True, tag="built", rm=True, quiet=quiet,
             buildargs={"WORD": "said"}, labels={"who": "me"}, decode=True, note="quiet" if quiet else "")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "Dockerfile").write_bytes(dockerfile)
        call("build", path=folder, tag="built", nocache=True, gzip=True, decode=True, note="gzip")
    call("build", fileobj=io.BytesIO(f"FROM {IMAGE}\nRUN exit 7\n".encode()), rm=True, decode=True, note="failing")
    call("inspect_image", "built", note="built")
    call("remove_image", "built", note="built")
    call("prune_builds")
    call("prune_images", filters={"dangling": True})
    call("pull", "127.0.0.1:9/nothing", tag="latest")
    call("push", "127.0.0.1:9/nothing", tag="latest")
    call("tag", IMAGE, "127.0.0.1:9/busybox", "latest", note="for a registry")
    call("push", "127.0.0.1:9/busybox", tag="latest", note="refused")
    call("remove_image", "127.0.0.1:9/busybox:latest", note="of a registry")
    call("search", "nothing")
    call("inspect_distribution", "127.0.0.1:9/nothing")


def containers() -> None:
    host_config = client.create_host_config(
        port_bindings={80: 18080}, binds=["/run/shared:/shared:ro"], mem_limit="64m", dns=["192.0.2.1"],
        extra_hosts={"there": "192.0.2.2"}, log_config={"Type": "json-file"},
    )  # fmt: skip
    made = call("create_container", IMAGE, WAIT, name="driven", hostname="driven", environment={"A": "B"}, ports=[80],
                labels={"who": "me"}, host_config=host_config, stdin_open=True)  # fmt: skip
    call("create_container", IMAGE, WAIT, name="driven", note="of a name that is taken")
    call("create_container", "nothing", WAIT, note="of a missing image")
    call("create_container_from_config", {"Image": IMAGE, "Cmd": ["true"]}, name="configured")
    call("inspect_container", "driven", note="created")
    call("start", "driven")
    call("start", "driven", note="again")
    call("start", "nothing", note="missing")
    call("inspect_container", "driven")
    call("inspect_container", made["Id"][:7] if made else "", note="by a part of its id")
    call("containers")
    call("containers", all=True, size=True, filters={"label": "who=me"}, note="filtered")
    call("port", "driven", 80)
    call("top", "driven", ps_args="-o pid,args")
    call("stats", "driven", stream=False)
    numbers = client.stats("driven", stream=True, decode=True)
    record("stats stream", sorted({key for _ in range(2) for key in next(numbers)}))
    numbers.close()
    call("diff", "driven")
    call("put_archive", "driven", "/tmp", tar({"put": b"this\n"}))
    call("put_archive", "driven", "/nowhere", tar({}), note="where nothing is")
    got = client.get_archive("driven", "/tmp/put")
    called.add("get_archive")
    record("get_archive", [plain(b"".join(got[0])), {"name": got[1]["name"], "size": got[1]["size"]}])
    call("get_archive", "driven", "/nowhere", note="where nothing is")
    call("diff", "driven", note="changed")
    call("logs", "driven")
    call("logs", "driven", stdout=False, note="of errors")
    call("logs", "driven", timestamps=True, tail=2, stderr=False, note="with times")
    call("update_container", "driven", cpu_shares=512, mem_limit="128m", memswap_limit="128m", restart_policy={"Name": "no"})
    call("pause", "driven")
    call("exec_create", "driven", "true", note="paused")
    call("unpause", "driven")
    call("unpause", "driven", note="again")
    call("rename", "driven", "renamed")
    call("inspect_container", "renamed", note="renamed")
    executions()
    call("commit", "renamed", repository="committed", tag="one", message="made", author="me", changes=["ENV C=D"])
    call("inspect_image", "committed:one", note="committed")
    call("history", "committed:one", note="committed")
    call("remove_image", "committed:one", note="committed")
    call("export", "renamed")
    follower = client.logs("renamed", stream=True, follow=True)
    collected: list[bytes] = []
    reader = threading.Thread(target=lambda: collected.extend(follower))
    reader.start()
    call("restart", "renamed", timeout=5)
    reader.join(30)
    record("logs followed over a restart", plain(collected))
    call("kill", "renamed", signal="WINCH")
    call("stop", "renamed", timeout=5)
    call("wait", "renamed")
    call("stop", "renamed", note="again")
    call("kill", "renamed", note="stopped")
    call("exec_create", "renamed", "true", note="stopped")
    call("inspect_container", "renamed", note="stopped")
    call("logs", "renamed", stream=True, follow=True, note="followed to the end")
    call("remove_container", "renamed", v=True)
    call("remove_container", "renamed", note="missing")
    call("remove_container", "configured", force=True)
    streams()
    call("create_container", IMAGE, ["no-such-program"], name="broken")
    call("start", "broken", note="without a program")
    call("wait", "broken", note="without a program")
    call("remove_container", "broken", force=True, note="broken")
    call("prune_containers", filters={"label": "who=nobody"})


def executions() -> None:
    made = call("exec_create", "renamed", ["sh", "-c", "echo out; sleep 0.2; echo err >&2; exit 5"], environment={"A": "B"}, user="0")
    call("exec_start", made["Id"], demux=True)
    call("exec_inspect", made["Id"])
    call("exec_inspect", "nothing", note="missing")
    echo = call("exec_create", "renamed", ["cat"], stdin=True, note="of a conversation")
    converse("exec_start of a conversation", client.exec_start(echo["Id"], socket=True), [b"one\n", b"two\n"])
    terminal = call("exec_create", "renamed", ["sh", "-c", "sleep 0.5; stty size"], tty=True, stdin=True, note="of a terminal")
    stream = client.exec_start(terminal["Id"], socket=True, tty=True)
    call("exec_resize", terminal["Id"], height=33, width=77)
    converse("exec_start of a terminal", stream, [], half_close=False)
    left = call("exec_create", "renamed", ["sleep", "0.1"], note="to be left alone")
    call("exec_start", left["Id"], detach=True, note="left alone")
    missing = call("exec_create", "renamed", ["no-such-program"], note="of a missing program")
    call("exec_start", missing["Id"], note="of a missing program")


def streams() -> None:
    echo = "while read line; do echo got $line; done; sleep 0.2; echo end >&2; exit 4"
    for kind, options in (("pipe", {}), ("terminal", {"tty": True})):
        name = f"echo-{kind}"
        command = ["sh", "-c", echo] if kind == "pipe" else ["sh", "-c", "sleep 0.5; stty size; read line; read line; exit 4"]
        call("create_container", IMAGE, command, name=name, stdin_open=True, host_config=None, note=kind, **options)
        called.add("attach_socket")
        stream = client.attach_socket(name, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        call("start", name, note=kind)
        if kind == "terminal":
            call("resize", name, height=33, width=77)
        converse(f"attach_socket {kind}", stream, [b"one\n", b"two\n"], half_close=kind == "pipe")
        call("wait", name, note=kind)
        call("remove_container", name, note=kind)
    for condition in ("next-exit", "removed", "not-running"):
        call("create_container", IMAGE, ["sh", "-c", "echo done; sleep 1; exit 6"], name="waited", note="waited for",
             host_config=client.create_host_config(auto_remove=condition == "removed"))  # fmt: skip
        if condition == "not-running":
            call("start", "waited", note="waited for")
            # The library loses what comes together with the head of the answer, so it is asked until nothing did.
            while not client.attach("waited", logs=True):
                pass
            called.add("attach")
            record("attach", plain(client.logs("waited")))
        waiter = threading.Thread(target=call, args=("wait", "waited"), kwargs={"condition": condition, "note": condition})
        waiter.start()
        if condition != "not-running":
            call_soon("start", "waited")
        waiter.join(30)
        call("remove_container", "waited", force=True, note=f"after {condition}")


def call_soon(name: str, /, *arguments: Any) -> None:
    """Calls when another thread has had the time to ask first; says nothing, as the order in which they speak varies."""
    threading.Event().wait(0.5)
    getattr(client, name)(*arguments)


def networks_and_volumes() -> None:
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="198.18.0.0/24")])
    made = call("create_network", "net", driver="bridge", ipam=pool, labels={"who": "me"}, internal=True)
    call("create_network", "net", check_duplicate=True, note="of a name that is taken")
    call("inspect_network", "net")
    call("networks", names=["net"])
    call("networks", filters={"driver": "bridge"}, note="filtered")
    endpoint = client.create_endpoint_config(aliases=["alias"], ipv4_address="198.18.0.9")
    call("create_container", IMAGE, WAIT, name="member", networking_config=client.create_networking_config({"net": endpoint}))
    call("start", "member", note="in a network")
    call("inspect_container", "member", note="in a network")
    call("connect_container_to_network", "member", "bridge")
    call("inspect_network", made["Id"] if made else "net", note="with a member")
    call("disconnect_container_from_network", "member", "bridge")
    call("disconnect_container_from_network", "member", "bridge", note="again")
    call("remove_network", "net", note="with a member")
    call("remove_container", "member", force=True, note="member")
    call("remove_network", "net")
    call("prune_networks", filters={"label": "who=nobody"})
    call("create_volume", name="vol", labels={"who": "me"})
    call("inspect_volume", "vol")
    call("inspect_volume", "nothing", note="missing")
    call("volumes", filters={"name": "vol"})
    call("create_container", IMAGE, ["sh", "-c", "echo kept > /vol/file"], name="writer", volumes=["/vol"],
         host_config=client.create_host_config(binds=["vol:/vol"]), note="with a volume")  # fmt: skip
    call("start", "writer", note="with a volume")
    call("wait", "writer", note="with a volume")
    call("inspect_container", "writer", note="with a volume")
    call("remove_volume", "vol", note="in use")
    call("remove_container", "writer", note="with a volume")
    call("remove_volume", "vol")
    call("prune_volumes", filters={"label": "who=nobody"})


def swarm() -> None:
    call("nodes", note="without a swarm")
    call("init_swarm", advertise_addr="127.0.0.1", listen_addr="127.0.0.1:2377", swarm_spec=client.create_swarm_spec(task_history_retention_limit=2))
    state = call("inspect_swarm") or {"Version": {"Index": 0}, "Spec": {}}
    nodes = call("nodes") or [{"ID": "nothing", "Version": {"Index": 0}, "Spec": {}}]
    call("inspect_node", nodes[0]["ID"])
    call("update_node", nodes[0]["ID"], nodes[0]["Version"]["Index"], {**nodes[0]["Spec"], "Labels": {"who": "me"}})
    call("remove_node", nodes[0]["ID"])
    call("update_swarm", state["Version"]["Index"], swarm_spec=state["Spec"])
    call("get_unlock_key")
    call("unlock_swarm", "SWMKEY-1-no")
    call("join_swarm", ["127.0.0.1:2378"], "SWMTKN-1-no")
    for kind in ("secret", "config"):
        call(f"create_{kind}", "kept", b"data", labels={"who": "me"})
        call(f"{kind}s")
        call(f"inspect_{kind}", "kept")
    template = docker.types.TaskTemplate(docker.types.ContainerSpec(IMAGE, command=["sleep", "600"]))
    service = call("create_service", template, name="serving", labels={"who": "me"}, mode=docker.types.ServiceMode("replicated", 0))
    call("services")
    found = call("inspect_service", "serving") or {"Version": {"Index": 0}}
    call("update_service", "serving", found["Version"]["Index"], task_template=template, name="serving",
         mode=docker.types.ServiceMode("replicated", 0), labels={"who": "us"})  # fmt: skip
    call("tasks", filters={"service": "serving"})
    call("inspect_task", "nothing")
    call("service_logs", "serving", stdout=True)
    call("remove_service", service["ID"] if service else "serving")
    for kind in ("secret", "config"):
        call(f"remove_{kind}", "kept")
    call("leave_swarm", note="without force")
    call("leave_swarm", force=True)


def plugins() -> None:
    call("plugins")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "rootfs")
        root.mkdir()
        settings = {"description": "idle", "entrypoint": ["/none"], "env": [{"name": "A", "settable": ["value"], "value": "B"}],
                    "interface": {"types": ["docker.volumedriver/1.0"], "socket": "none.sock"}}  # fmt: skip
        pathlib.Path(folder, "config.json").write_text(json.dumps(settings))
        call("create_plugin", "idle", folder)
    call("inspect_plugin", "idle")
    call("configure_plugin", "idle", {"A": "C"})
    call("enable_plugin", "idle", timeout=1)
    call("disable_plugin", "idle")
    call("push_plugin", "127.0.0.1:9/idle")
    call("remove_plugin", "idle", force=True)
    call("plugin_privileges", "127.0.0.1:9/idle")
    call("pull_plugin", "127.0.0.1:9/idle", [])
    call("upgrade_plugin", "127.0.0.1:9/idle", "127.0.0.1:9/idle", [])


def main() -> int:
    record("library", f"Python, docker {docker.__version__}")
    for part in (system, images, containers, networks_and_volumes, plugins, swarm):
        part()
    methods = {
        name for name, method in inspect.getmembers(docker.APIClient, callable)
        if not name.startswith("_") and method.__module__.startswith("docker.")
    }  # fmt: skip
    missed = methods - called - OF_THE_LIBRARY
    if missed:
        print(f"not driven: {', '.join(sorted(missed))}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
