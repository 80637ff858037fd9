// Drives every call of the Node library once, and prints what each came to: one line of JSON for each, with the call's name
// and its outcome. Where the engine is, DOCKER_HOST says. A method of the library that is not called makes it fail.
"use strict";

const crypto = require("crypto");
const fs = require("fs");
const http = require("http");
const path = require("path");
const { PassThrough, Readable } = require("stream");
const Docker = require("dockerode");

// The library says there what it thinks of old calls.
console.log = console.error;

const IMAGE = "busybox";
const HERE = process.env.HERE;
const WAIT = ["sh", "-c", "echo out; sleep 0.2; echo err >&2; trap 'exit 3' TERM; sleep 600 & wait"];
// What makes handles, or is a part of another call.
const OF_THE_LIBRARY = new Set(["Docker.runCallback", "Docker.runPromise", "Docker.pullAll"]);

// Each call on a connection of its own, as the library's own agent does, so that none waits for another.
const docker = new Docker({ socketPath: process.env.DOCKER_HOST.replace("unix://", ""), timeout: 60000 });
const called = new Set();

/** @param {string} call @param {unknown} outcome */
function record(call, outcome) {
  process.stdout.write(JSON.stringify({ call, outcome: outcome === undefined ? null : outcome }) + "\n");
}

/** @param {NodeJS.ReadableStream} stream @returns {Promise<Buffer>} */
function collect(stream) {
  return new Promise((resolve, reject) => {
    const pieces = [];
    stream.on("data", (piece) => pieces.push(Buffer.from(piece)));
    for (const end of ["end", "close"]) stream.on(end, () => resolve(Buffer.concat(pieces)));
    stream.on("error", reject);
  });
}

/** What can be written as JSON, whatever the pieces in which it came. @param {unknown} value */
async function plain(value) {
  const stat = value && value.headers && value.headers["x-docker-container-path-stat"];
  if (stat && value.req.method === "HEAD") return JSON.parse(Buffer.from(stat, "base64").toString());
  if (value instanceof http.IncomingMessage || (value && typeof value.pipe === "function")) value = await collect(value);
  if (Buffer.isBuffer(value)) return value.includes("ustar") ? { tar: members(value) } : value.toString();
  if (value && ["Container", "Exec", "Network", "Volume", "Service", "Secret", "Config", "Plugin"].includes(value.constructor.name)) {
    return value.constructor.name;
  }
  return value;
}

/** Names and sizes of what is in an archive. @param {Buffer} data */
function members(data) {
  const found = [];
  for (let at = 0; at + 512 <= data.length && data[at] !== 0; ) {
    const text = (from, length) => data.toString("utf8", at + from, at + from + length).split("\0")[0];
    const size = parseInt(text(124, 12), 8);
    const content = data.subarray(at + 512, at + 512 + size);
    const name = text(345, 155) + text(0, 100);
    const kept = name.includes(".json") ? "" : crypto.createHash("sha256").update(content).digest("hex").slice(0, 11);
    found.push([name, text(100, 8), size, text(157, 100), kept].join(" "));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return found.sort();
}

/** An archive with one file. @param {string} name @param {string} content */
function tar(name, content) {
  const head = Buffer.alloc(512);
  const size = Buffer.byteLength(content);
  head.write(name, 0);
  head.write("0000644\0" + "0000000\0" + "0000000\0" + size.toString(8).padStart(11, "0") + "\0" + "00000000000\0", 100);
  head.write("        0", 148);
  head.write("ustar\x0000", 257);
  const sum = head.reduce((sum, byte) => sum + byte, 0);
  head.write(sum.toString(8).padStart(6, "0") + "\0 ", 148);
  const body = Buffer.alloc(Math.ceil(size / 512) * 512);
  body.write(content);
  return Buffer.concat([head, body, Buffer.alloc(1024)]);
}

/** Calls a method, prints what it came to, and returns it; nothing if it failed. */
async function call(target, method, ...args) {
  const note = typeof args[0] === "object" && args[0] && args[0].note;
  if (note) args.shift();
  const name = `${target.constructor.name}.${method}`;
  called.add(name);
  const label = note ? `${name} ${note.note || note}` : name;
  try {
    const result = await target[method](...args);
    record(label, await plain(result));
    return result;
  } catch (error) {
    record(label, { status: error.statusCode || 0, says: error.reason || error.message, json: error.json || null });
    return undefined;
  }
}

const noted = (note) => ({ note });

async function system() {
  for (const method of ["ping", "version", "info", "df"]) await call(docker, method);
  await call(docker, "getEvents", { since: 1, until: 2 });
  await call(docker, "checkAuth", { username: "somebody", password: "secret", serveraddress: "http://127.0.0.1:9" });
  await call(docker, "searchImages", { term: "nothing" });
}

async function images() {
  await call(docker, "listImages", { all: true });
  const image = docker.getImage(IMAGE);
  await call(image, "inspect");
  await call(docker.getImage("nothing"), "inspect", noted("missing"));
  await call(image, "history");
  await call(image, "distribution");
  await call(image, "tag", { repo: "tagged", tag: "one" });
  const saved = await collect(await docker.getImage("tagged:one").get());
  await call(docker.getImage("tagged:one"), "get");
  await call(docker, "getImages", { names: ["tagged:one", IMAGE] });
  await call(docker.getImage("tagged:one"), "remove");
  await call(docker, "loadImage", Readable.from([saved]), { quiet: true });
  await call(docker.getImage("tagged:one"), "remove", noted("loaded"));
  await call(docker, "importImage", Readable.from([tar("greeting", "hello\n")]), { repo: "made", tag: "one" });
  await call(docker.getImage("made:one"), "inspect", noted("imported"));
  await call(docker.getImage("made:one"), "remove", noted("imported"));
  await call(docker, "createImage", { fromImage: "127.0.0.1:9/nothing", tag: "latest" });
  await call(docker, "pull", "127.0.0.1:9/nothing:latest");
  await call(docker.getImage("127.0.0.1:9/nothing"), "push", {});
  const context = { context: path.join(HERE, "context"), src: ["Dockerfile", "numbers"] };
  await call(docker, "buildImage", context, { t: "built", buildargs: { WORD: "said" }, nocache: true });
  await call(docker, "buildImage", noted("from a stream"), Readable.from([tar("Dockerfile", `FROM ${IMAGE}\nRUN exit 7\n`)]), {});
  const built = await docker.buildImage(context, { t: "modern", version: "2", nocache: true }).then(collect, (error) => error);
  record("Docker.buildImage with BuildKit", built instanceof Error ? built.message : built.includes("errorDetail"));
  await call(docker.getImage("modern"), "inspect", noted("made by BuildKit"));
  for (const name of ["built", "modern"]) await call(docker.getImage(name), "remove", noted(name), { force: true });
  // Followed to its end, a progress is an array.
  const progress = await docker.buildImage(Readable.from([tar("Dockerfile", `FROM ${IMAGE}\n`)]), { t: "followed" });
  called.add("Docker.followProgress");
  record("Docker.followProgress", await new Promise((resolve) => docker.followProgress(progress, (_, output) => resolve(output))));
  await call(docker.getImage("followed"), "remove", noted("followed"));
  await call(docker, "pruneBuilder");
  await call(docker, "pruneImages");
}

/** Says lines to a process that answers each, ends the input, and prints all that came. */
async function converse(label, stream, lines) {
  const all = collect(stream);
  for (const line of lines) stream.write(line);
  if (lines.length > 0) stream.end();
  record(label, (await all).toString("latin1"));
}

async function containers() {
  const made = await call(docker, "createContainer", {
    name: "driven", Image: IMAGE, Cmd: WAIT, Hostname: "driven", Env: ["A=B"], Labels: { who: "me" }, OpenStdin: true,
    ExposedPorts: { "80/tcp": {} },
    HostConfig: { PortBindings: { "80/tcp": [{ HostPort: "18080" }] }, Binds: ["/run/shared:/shared:ro"], Memory: 67108864, Dns: ["192.0.2.1"] },
  });
  await call(docker, "createContainer", noted("of a name that is taken"), { name: "driven", Image: IMAGE });
  await call(docker, "createContainer", noted("of a missing image"), { Image: "nothing" });
  await call(made, "inspect", noted("created"));
  await call(made, "start");
  await call(made, "start", noted("again"));
  await call(docker.getContainer("nothing"), "start", noted("missing"));
  await call(made, "inspect");
  await call(docker, "listContainers", { all: true, size: true, filters: { label: ["who=me"] } });
  await call(made, "top", { ps_args: "-o pid,args" });
  await call(made, "stats", { stream: false });
  await call(made, "changes");
  while (!(await made.logs({ stdout: true, stderr: true })).includes("err")) continue;
  await call(made, "logs", { stdout: true, stderr: true });
  await call(made, "putArchive", tar("put", "this\n"), { path: "/tmp" });
  await call(made, "infoArchive", { path: "/tmp/put" });
  await call(made, "getArchive", { path: "/tmp/put" });
  await call(made, "getArchive", noted("where nothing is"), { path: "/nowhere" });
  await call(made, "copy", { Resource: "/tmp/put" });
  await call(made, "changes", noted("changed"));
  await call(made, "update", { CpuShares: 512, RestartPolicy: { Name: "no" } });
  await call(made, "resize", { h: 33, w: 77 });
  await call(made, "pause");
  await call(made, "exec", noted("paused"), { Cmd: ["true"] });
  await call(made, "unpause");
  await call(made, "rename", { name: "renamed" });
  await executions(made);
  await call(made, "commit", { repo: "committed", tag: "one", comment: "made", author: "me", changes: "ENV C=D" });
  await call(docker.getImage("committed:one"), "inspect", noted("committed"));
  await call(docker.getImage("committed:one"), "remove", noted("committed"));
  await call(made, "export");
  const checkpoint = { checkpointId: "one" };
  for (const method of ["createCheckpoint", "listCheckpoint", "deleteCheckpoint"]) await call(made, method, checkpoint);
  const followed = collect(await made.logs({ follow: true, stdout: true, stderr: true }));
  await call(made, "restart", { t: 5 });
  record("Container.logs followed over a restart", (await followed).toString("latin1"));
  await call(made, "kill", { signal: "WINCH" });
  await call(made, "stop", { t: 5 });
  await call(made, "wait");
  await call(made, "stop", noted("again"));
  await call(made, "inspect", noted("stopped"));
  await call(made, "remove", { v: true });
  await call(made, "remove", noted("missing"));
  const echo = "while read line; do echo got $line; done; sleep 0.2; echo end >&2; exit 4";
  const attached = await call(docker, "createContainer", noted("to attach to"), {
    name: "echo", Image: IMAGE, Cmd: ["sh", "-c", echo], OpenStdin: true, StdinOnce: true, AttachStdin: true,
  });
  called.add("Container.attach");
  const stream = await attached.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
  await call(attached, "start", noted("to attach to"));
  await converse("Container.attach", stream, ["one\n", "two\n"]);
  await call(attached, "wait", noted("attached"));
  await call(attached, "remove", noted("attached"));
  await running();
  const broken = await call(docker, "createContainer", noted("without a program"), { name: "broken", Image: IMAGE, Cmd: ["no-such-program"] });
  await call(broken, "start", noted("without a program"));
  await call(broken, "remove", noted("without a program"), { force: true });
  await call(docker, "pruneContainers", { filters: { label: ["who=me"] } });
}

async function executions(container) {
  const exec = await call(container, "exec", { Cmd: ["sh", "-c", "sleep 0.2; echo out; exit 5"], AttachStdout: true, AttachStderr: true });
  await call(exec, "start", {});
  await call(exec, "inspect");
  const echo = await call(container, "exec", noted("of a conversation"), { Cmd: ["cat"], AttachStdin: true, AttachStdout: true });
  called.add("Exec.start");
  await converse("Exec.start of a conversation", await echo.start({ hijack: true, stdin: true }), ["one\n", "two\n"]);
  const terminal = await call(container, "exec", noted("of a terminal"), { Cmd: ["sh", "-c", "sleep 0.5; stty size"], AttachStdout: true, Tty: true });
  const stream = await terminal.start({ hijack: true, Tty: true });
  await call(terminal, "resize", { h: 33, w: 77 });
  await converse("Exec.start of a terminal", stream, []);
  const missing = await call(container, "exec", noted("of a missing program"), { Cmd: ["no-such-program"], AttachStdout: true });
  await call(missing, "start", noted("of a missing program"), {});
}

async function running() {
  const output = new PassThrough();
  const said = collect(output);
  called.add("Docker.run");
  const [result] = await docker.run(IMAGE, ["sh", "-c", "sleep 0.2; echo out; exit 6"], output, { name: "run", Tty: true, HostConfig: { AutoRemove: true } });
  output.end();
  record("Docker.run", [result, (await said).toString()]);
}

async function networksAndVolumes() {
  const net = await call(docker, "createNetwork", {
    Name: "net", Driver: "bridge", Labels: { who: "me" }, IPAM: { Config: [{ Subnet: "198.18.0.0/24" }] },
  });
  await call(net, "inspect");
  await call(docker, "listNetworks", { filters: { label: ["who=me"] } });
  const member = await call(docker, "createContainer", noted("in a network"), {
    name: "member", Image: IMAGE, Cmd: WAIT, HostConfig: { NetworkMode: "net" },
    NetworkingConfig: { EndpointsConfig: { net: { Aliases: ["alias"], IPAMConfig: { IPv4Address: "198.18.0.9" } } } },
  });
  await call(member, "start", noted("in a network"));
  await call(member, "inspect", noted("in a network"));
  const bridge = docker.getNetwork("bridge");
  await call(bridge, "connect", { Container: "member" });
  await call(net, "inspect", noted("with a member"));
  await call(bridge, "disconnect", { Container: "member" });
  await call(net, "remove", noted("with a member"));
  await call(member, "remove", noted("in a network"), { force: true });
  await call(net, "remove");
  await call(docker, "pruneNetworks", { filters: { label: ["who=me"] } });
  await call(docker, "createVolume", { Name: "vol", Labels: { who: "me" } });
  const volume = docker.getVolume("vol");
  await call(volume, "inspect");
  await call(docker, "listVolumes", { filters: { name: ["vol"] } });
  await call(volume, "remove");
  await call(volume, "remove", noted("missing"));
  await call(docker, "pruneVolumes", { filters: { label: ["who=me"] } });
}

async function plugins() {
  await call(docker, "listPlugins");
  const settings = fs.readFileSync(path.join(HERE, "plugin", "config.json"), "utf8");
  // The library sends no body with this call, and is refused.
  await call(docker, "createPlugin", { name: "idle", settings });
  const plugin = docker.getPlugin("idle", "127.0.0.1:9/idle");
  await call(plugin, "inspect");
  await call(plugin, "privileges");
  await call(plugin, "pull", { Name: "idle" });
  await call(plugin, "configure", ["A=C"]);
  await call(plugin, "enable", { timeout: 1 });
  await call(plugin, "disable");
  await call(plugin, "push");
  await call(plugin, "upgrade", {});
  await call(plugin, "remove", { force: true });
}

async function swarm() {
  await call(docker, "listNodes", noted("without a swarm"));
  await call(docker, "swarmInit", { AdvertiseAddr: "127.0.0.1", ListenAddr: "127.0.0.1:2377" });
  const state = await call(docker, "swarmInspect");
  await call(docker, "swarmUpdate", { version: state.Version.Index, ...state.Spec });
  await call(docker, "swarmJoin", { RemoteAddrs: ["127.0.0.1:2378"], JoinToken: "SWMTKN-1-no" });
  const [{ ID, Version, Spec }] = await call(docker, "listNodes");
  const node = docker.getNode(ID);
  await call(node, "inspect");
  await call(node, "update", { version: Version.Index, ...Spec });
  await call(node, "remove");
  for (const kind of ["Secret", "Config"]) {
    const made = await call(docker, `create${kind}`, { Name: "kept", Data: Buffer.from("data").toString("base64"), Labels: { who: "me" } });
    await call(docker, `list${kind}s`);
    const found = await call(made, "inspect");
    await call(made, "update", { version: found.Version.Index, ...found.Spec, Labels: { who: "us" } });
    await call(made, "remove");
  }
  const template = { ContainerSpec: { Image: IMAGE, Command: ["sh", "-c", "echo serving; sleep 600"] }, RestartPolicy: { Condition: "none" } };
  const service = await call(docker, "createService", { Name: "serving", TaskTemplate: template, Mode: { Replicated: { Replicas: 1 } } });
  await call(docker, "listServices");
  let tasks = [];
  while (!tasks.some((task) => task.Status.State === "running")) tasks = await docker.listTasks();
  called.add("Docker.listTasks");
  record("Docker.listTasks", tasks.map((task) => [task.Spec, task.Status.State]));
  const task = docker.getTask(tasks[0].ID);
  await call(task, "inspect");
  while (!String(await plain(await service.logs({ stdout: true }))).includes("serving")) continue;
  await call(service, "logs", { stdout: true, stderr: true });
  await call(task, "logs", { stdout: true, stderr: true });
  const found = await call(service, "inspect");
  await call(service, "update", { version: found.Version.Index, ...found.Spec, Mode: { Replicated: { Replicas: 0 } } });
  await call(service, "remove");
  await call(docker, "swarmLeave", noted("without force"));
  await call(docker, "swarmLeave", { force: true });
}

/** Lists the methods that ask the engine for something. */
function methods() {
  const kinds = [docker, docker.getContainer("x"), docker.getImage("x"), docker.getVolume("x"), docker.getNetwork("x"),
    docker.getService("x"), docker.getTask("x"), docker.getNode("x"), docker.getSecret("x"), docker.getConfig("x"),
    docker.getPlugin("x"), docker.getExec("x")];
  const ask = (kind, name) => typeof kind[name] === "function" && !/^get[A-Z][a-z]+$/.test(name) || /^get(Events|Images|Archive)$/.test(name);
  return kinds.flatMap((kind) => Object.keys(Object.getPrototypeOf(kind)).filter((name) => ask(kind, name)).map((name) => `${kind.constructor.name}.${name}`));
}

async function main() {
  record("library", `Node, dockerode ${require("dockerode/package.json").version}`);
  for (const part of [system, images, containers, networksAndVolumes, plugins, swarm]) await part();
  const missed = methods().filter((name) => !called.has(name) && !OF_THE_LIBRARY.has(name));
  if (missed.length > 0) throw new Error(`not driven: ${missed.join(", ")}`);
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
