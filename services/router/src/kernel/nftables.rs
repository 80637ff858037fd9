//! Packet filter rules over nfnetlink: listing, and changing in transactions.
//!
//! Only what our own rules consist of is understood; anything else is kept by name, so that it never compares equal.

mod attributes;
mod conntrack;
mod expressions;
mod sets;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use anyhow::{Context, bail};
use netlink_sys::{Socket, SocketAddr, constants::NETLINK_NETFILTER};
use socket2::SockRef;
use weft_router_core::hostnet::{ALIAS, BaseChain, ChainRef, Family, Hook, PortElement, PortSet, Rule, Set, Table};

use self::attributes::{Attributes, Writer};
pub(super) use self::conntrack::Led;
use super::rtnetlink;
use crate::socket::set_option;

/// Room for one datagram of the kernel.
const DATAGRAM: usize = 64 * 1024;

/// Room for what a transaction consists of, and for the answers, in bytes: 16,000 rules of 600 bytes.
const BUFFER: libc::c_int = 16 << 20;

/// How long the kernel may take for a transaction; it answers before the call returns, so this only ends a wait for an
/// answer that will never come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Name of the table that iptables-nft and ip6tables-nft keep their filter chains in.
const FILTER: &str = "filter";

// linux/netfilter/nfnetlink.h and nf_tables.h
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const GET_SET: u16 = 10;
const NEW_ELEMENTS: u16 = 12;
const GET_ELEMENTS: u16 = 13;
const DELETE_ELEMENTS: u16 = 14;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_POSITION: u16 = 6;
const RULE_USERDATA: u16 = 7;
/// Type of a comment in a rule's user data, as nft and the iptables tools read it (libnftnl, udata.h).
const USERDATA_COMMENT: u8 = 0;
const NF_ACCEPT: u32 = 1;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Keys in one message at most: lengths of lists have 16 bits.
const KEYS: usize = 512;
/// A netlink header, then `nfgenmsg`.
const HEADER: usize = 20;

/// A socket to nftables of the network namespace that the thread was in when it opened it.
#[derive(Debug)]
pub(super) struct Nftables {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One change of a transaction.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// Makes the table exactly so.
    ReplaceTable(&'a Table),
    /// Makes sure that there is no such table.
    RemoveTable(Family, &'a str),
    /// Puts a rule first in a chain of the table `filter`.
    InsertRule(&'a ChainRef, &'a Rule),
    /// Puts a rule into a chain of the table `filter`, directly after the one with this handle.
    InsertAfter(&'a ChainRef, u64, &'a Rule),
    /// Deletes a rule from a chain of the table `filter`.
    DeleteRule(&'a ChainRef, u64),
    /// Adds keys to a set.
    AddKeys(SetRef<'a>, &'a [Vec<u8>]),
    /// Removes keys from a set.
    RemoveKeys(SetRef<'a>, &'a [Vec<u8>]),
    /// Adds elements to sets of the table of ports.
    AddElements(&'a [PortElement]),
    /// Removes elements from sets of the table of ports.
    RemoveElements(&'a [PortElement]),
}

/// Names a set.
#[derive(Debug, Clone, Copy)]
pub(super) struct SetRef<'a> {
    pub(super) family: Family,
    pub(super) table: &'a str,
    pub(super) set: &'a str,
}

impl Nftables {
    pub(super) fn open() -> anyhow::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER).context("failed to open a netfilter netlink socket")?;
        socket.bind_auto().context("failed to bind a netfilter netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("failed to connect to the kernel by netlink")?;
        SockRef::from(&rtnetlink::borrow(&socket))
            .set_read_timeout(Some(PATIENCE))
            .context("failed to set up a netfilter netlink socket")?;
        enlarge(&socket);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Reads a table with its base chains, if it exists. Chains in order of their names.
    pub(super) fn table(&mut self, family: Family, name: &str) -> anyhow::Result<Option<Table>> {
        let mut request = Writer::default();
        request.string(TABLE_NAME, name);
        match self.ask(GET_TABLE, family, 0, request) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("failed to find the nftables table {name}")),
        }
        let messages = self
            .ask(GET_CHAIN, family, NLM_F_DUMP, Writer::default())
            .with_context(|| format!("failed to list the chains of the nftables table {name}"))?;
        let mut chains: Vec<BaseChain> = messages.iter().filter_map(|message| read_chain(message, name)).collect();
        chains.sort_by(|a, b| a.name.cmp(&b.name));
        for chain in &mut chains {
            chain.rules = self.rules(family, name, &chain.name)?.into_iter().map(|(_, rule)| rule).collect();
        }
        let mut sets = self.sets(family, name)?;
        sets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(Table { family, name: name.into(), sets, chains }))
    }

    fn sets(&mut self, family: Family, table: &str) -> anyhow::Result<Vec<Set>> {
        let messages = self
            .ask(GET_SET, family, NLM_F_DUMP, sets::write_name(table, None))
            .with_context(|| format!("failed to list the sets of the nftables table {table}"))?;
        Ok(messages.iter().filter_map(|message| sets::read_set(message, table)).collect())
    }

    /// Lists what is in a set.
    pub(super) fn keys(&mut self, set: SetRef<'_>) -> anyhow::Result<BTreeSet<Vec<u8>>> {
        let messages = self
            .ask(GET_ELEMENTS, set.family, NLM_F_DUMP, sets::write_name(set.table, Some(set.set)))
            .with_context(|| format!("failed to list the nftables set {}", set.set))?;
        let mut keys = BTreeSet::new();
        messages.iter().for_each(|message| sets::read_keys(message, &mut keys));
        Ok(keys)
    }

    /// Lists what is in the sets of the table of ports.
    pub(super) fn elements(&mut self, table: &Table) -> anyhow::Result<BTreeSet<PortElement>> {
        let mut elements = BTreeSet::new();
        for Set { name, .. } in &table.sets {
            let Some(set) = PortSet::named(name) else { continue };
            let messages = self
                .ask(GET_ELEMENTS, table.family, NLM_F_DUMP, sets::write_name(&table.name, Some(name)))
                .with_context(|| format!("failed to list the nftables set {name}"))?;
            messages.iter().for_each(|message| sets::read_elements(message, &set, &mut elements));
        }
        Ok(elements)
    }

    /// Returns the comment of each rule of a chain that counts, and how many packets it counted.
    pub(super) fn counted(&mut self, family: Family, table: &str, chain: &str) -> anyhow::Result<Vec<(String, u64)>> {
        let messages = self.list_rules(family, table, chain)?;
        let counted = |message: &Vec<u8>| {
            let rule = Attributes::new(message);
            if rule.string(RULE_TABLE)? != table || rule.string(RULE_CHAIN)? != chain {
                return None;
            }
            let packets = Attributes::new(rule.value(RULE_EXPRESSIONS)?)
                .iter()
                .find_map(|(_, expression)| expressions::packets(expression))?;
            Some((rule.value(RULE_USERDATA).and_then(read_comment)?, packets))
        };
        Ok(messages.iter().filter_map(counted).collect())
    }

    /// Returns the number by which the kernel names this socket to others.
    pub(super) fn port(&self) -> u32 {
        let mut address = SocketAddr::new(0, 0);
        // One without a number is told apart from none.
        let _ = self.socket.get_address(&mut address);
        address.port_number()
    }

    /// Tells whether the table `filter` of the family has the chain.
    pub(super) fn has_chain(&mut self, chain: &ChainRef) -> anyhow::Result<bool> {
        let mut request = Writer::default();
        request.string(CHAIN_TABLE, FILTER);
        request.string(CHAIN_NAME, &chain.chain);
        match self.ask(GET_CHAIN, chain.family, 0, request) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("failed to find the chain {}", chain.chain)),
        }
    }

    /// Lists the rules of a chain of the table `filter`, with their handles.
    pub(super) fn filter_rules(&mut self, chain: &ChainRef) -> anyhow::Result<Vec<(u64, Rule)>> {
        self.rules(chain.family, FILTER, &chain.chain)
    }

    /// Performs all steps or none.
    pub(super) fn transact(&mut self, steps: &[Step<'_>]) -> anyhow::Result<()> {
        let mut batch = Batch { bytes: Vec::new(), sequence: self.sequence, expected: 0 };
        batch.mark(BATCH_BEGIN);
        let begin = batch.sequence;
        for step in steps {
            batch.step(step);
        }
        let last = batch.sequence;
        batch.mark(BATCH_END);
        self.sequence = batch.sequence;
        self.socket.send(&batch.bytes, 0).context("failed to send to nftables")?;
        let mut answered = 0;
        let mut outcome = Ok(());
        while answered < batch.expected {
            for (sequence, _, answer) in self.receive().context("nftables did not answer")? {
                let Answer::Done(result) = answer else { continue };
                if sequence == begin {
                    // The transaction as a whole: an answer comes only to say that it failed.
                    return result.context("nftables refused the transaction");
                }
                if sequence > begin && sequence <= last {
                    answered += 1;
                    if outcome.is_ok() {
                        outcome = result;
                    }
                }
            }
        }
        outcome.context("nftables refused the rules")
    }

    fn rules(&mut self, family: Family, table: &str, chain: &str) -> anyhow::Result<Vec<(u64, Rule)>> {
        let messages = self.list_rules(family, table, chain)?;
        Ok(messages.iter().filter_map(|message| read_rule(message, table, chain)).collect())
    }

    fn list_rules(&mut self, family: Family, table: &str, chain: &str) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut request = Writer::default();
        request.string(RULE_TABLE, table);
        request.string(RULE_CHAIN, chain);
        self.ask(GET_RULE, family, NLM_F_DUMP, request)
            .with_context(|| format!("failed to list the rules of the chain {chain}"))
    }

    /// Sends one request to nftables and returns the attributes of the objects that come back.
    fn ask(&mut self, kind: u16, family: Family, flags: u16, content: Writer) -> io::Result<Vec<Vec<u8>>> {
        self.request(SUBSYSTEM << 8 | kind, number(family), flags, &content, |_| true)
    }

    /// Sends one request to a part of netfilter and returns the attributes of the objects that come back and are wanted.
    fn request(
        &mut self,
        kind: u16,
        family: u8,
        flags: u16,
        content: &Writer,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Vec<Vec<u8>>> {
        /// Other programs may keep changing what is listed; then the list is asked for again.
        const TRIES: usize = 10;
        for _ in 0..TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = NLM_F_REQUEST | flags | if flags & NLM_F_DUMP == 0 { NLM_F_ACK } else { 0 };
            let message = message(kind, flags, self.sequence, family, 0, content.bytes());
            self.socket.send(&message, 0)?;
            let mut objects = Vec::new();
            let mut interrupted = false;
            'answers: loop {
                for (sequence, flags, answer) in self.receive()? {
                    if sequence != self.sequence {
                        continue;
                    }
                    interrupted |= flags & NLM_F_DUMP_INTR != 0;
                    match answer {
                        Answer::Object(attributes) if !wanted(&attributes) => {}
                        Answer::Object(attributes) => objects.push(attributes),
                        Answer::Done(Err(error)) if error.raw_os_error() == Some(libc::EINTR) => interrupted = true,
                        Answer::Done(Err(error)) => return Err(error),
                        Answer::Done(Ok(())) => break 'answers,
                    }
                    if interrupted && flags & NLM_F_DUMP == 0 {
                        break 'answers;
                    }
                }
            }
            if !interrupted {
                return Ok(objects);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EINTR))
    }

    fn receive(&mut self) -> io::Result<Vec<(u32, u16, Answer)>> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        let mut answers = Vec::new();
        let mut rest = self.buffer.as_slice();
        while let Some(header) = rest.first_chunk::<16>() {
            let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
            let length = word(0) as usize;
            let Some(body) = rest.get(16..length) else { break };
            let code = || body.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
            let answer = match half(4) {
                NLMSG_ERROR | NLMSG_DONE if code() < 0 => Answer::Done(Err(io::Error::from_raw_os_error(-code()))),
                NLMSG_ERROR | NLMSG_DONE => Answer::Done(Ok(())),
                _ => Answer::Object(body.get(HEADER - 16..).unwrap_or_default().to_vec()),
            };
            answers.push((word(8), half(6), answer));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(answers)
    }
}

/// Makes room for a transaction of many rules and its answers. Where that is not permitted, smaller ones work.
fn enlarge(socket: &Socket) {
    for option in [libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE] {
        if let Err(error) = set_option(&rtnetlink::borrow(socket), libc::SOL_SOCKET, option, BUFFER) {
            tracing::debug!(%error, "the buffers of a netfilter socket stay small");
        }
    }
}

enum Answer {
    Object(Vec<u8>),
    Done(io::Result<()>),
}

/// A transaction in the making.
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    expected: usize,
}

impl Batch {
    fn mark(&mut self, kind: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        self.bytes.extend(message(kind, NLM_F_REQUEST, self.sequence, 0, SUBSYSTEM, &[]));
    }

    fn add(&mut self, kind: u16, family: Family, flags: u16, content: &Writer) {
        self.sequence = self.sequence.wrapping_add(1);
        self.expected += 1;
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let kind = SUBSYSTEM << 8 | kind;
        self.bytes.extend(message(kind, flags, self.sequence, number(family), 0, content.bytes()));
    }

    fn step(&mut self, step: &Step<'_>) {
        match step {
            Step::ReplaceTable(table) => {
                self.remove_table(table.family, &table.name);
                let mut name = Writer::default();
                name.string(TABLE_NAME, &table.name);
                self.add(NEW_TABLE, table.family, NLM_F_CREATE, &name);
                for (id, set) in (1..).zip(&table.sets) {
                    self.add(NEW_SET, table.family, NLM_F_CREATE, &sets::write_set(&table.name, set, id));
                }
                for chain in &table.chains {
                    self.add(NEW_CHAIN, table.family, NLM_F_CREATE, &write_chain(&table.name, chain));
                    for rule in &chain.rules {
                        let rule = write_rule(&table.name, &chain.name, rule);
                        self.add(NEW_RULE, table.family, NLM_F_CREATE | NLM_F_APPEND, &rule);
                    }
                }
            }
            Step::RemoveTable(family, name) => self.remove_table(*family, name),
            Step::InsertRule(chain, rule) => {
                self.add(NEW_RULE, chain.family, NLM_F_CREATE, &write_rule(FILTER, &chain.chain, rule));
            }
            Step::InsertAfter(chain, handle, rule) => {
                let mut rule = write_rule(FILTER, &chain.chain, rule);
                rule.bytes_of(RULE_POSITION, &handle.to_be_bytes());
                self.add(NEW_RULE, chain.family, NLM_F_CREATE | NLM_F_APPEND, &rule);
            }
            Step::DeleteRule(chain, handle) => {
                let mut rule = Writer::default();
                rule.string(RULE_TABLE, FILTER);
                rule.string(RULE_CHAIN, &chain.chain);
                rule.bytes_of(RULE_HANDLE, &handle.to_be_bytes());
                self.add(DELETE_RULE, chain.family, 0, &rule);
            }
            Step::AddElements(elements) => self.elements(NEW_ELEMENTS, NLM_F_CREATE, elements),
            Step::RemoveElements(elements) => self.elements(DELETE_ELEMENTS, 0, elements),
            Step::AddKeys(set, keys) => {
                for keys in keys.chunks(KEYS) {
                    let keys = sets::write_keys(set.table, set.set, keys);
                    self.add(NEW_ELEMENTS, set.family, NLM_F_CREATE, &keys);
                }
            }
            Step::RemoveKeys(set, keys) => {
                for keys in keys.chunks(KEYS) {
                    let keys = sets::write_keys(set.table, set.set, keys);
                    self.add(DELETE_ELEMENTS, set.family, 0, &keys);
                }
            }
        }
    }

    /// Calls for one message for each set, or more where one would be too long.
    fn elements(&mut self, kind: u16, flags: u16, elements: &[PortElement]) {
        let mut by_set: BTreeMap<&PortSet, Vec<&PortElement>> = BTreeMap::new();
        for element in elements {
            by_set.entry(&element.set).or_default().push(element);
        }
        for (set, elements) in by_set {
            for elements in elements.chunks(KEYS) {
                self.add(kind, Family::Bridge, flags, &sets::write_elements(ALIAS, set, elements));
            }
        }
    }

    /// Deleting what is not there would fail, so it is made first: both in one transaction.
    fn remove_table(&mut self, family: Family, name: &str) {
        let mut table = Writer::default();
        table.string(TABLE_NAME, name);
        self.add(NEW_TABLE, family, NLM_F_CREATE, &table);
        self.add(DELETE_TABLE, family, 0, &table);
    }
}

fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + content.len()).expect("a rule is far below 4 GiB");
    let mut bytes = Vec::with_capacity(HEADER + content.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(content);
    bytes
}

/// `NFPROTO_*` (linux/netfilter.h).
fn number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ipv4 => 2,
        Family::Bridge => 7,
        Family::Ipv6 => 10,
    }
}

/// `NF_INET_*` (linux/netfilter.h), `NF_BR_*` (linux/netfilter_bridge.h).
fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting | Hook::TranslateDestination => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output | Hook::TranslateOutgoing => 3,
        Hook::TranslateSource => 4,
    }
}

/// Returns the type of chains that hang there.
fn chain_type(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting | Hook::Input | Hook::Output | Hook::Forward => "filter",
        Hook::TranslateSource | Hook::TranslateDestination | Hook::TranslateOutgoing => "nat",
    }
}

fn write_chain(table: &str, chain: &BaseChain) -> Writer {
    let mut writer = Writer::default();
    writer.string(CHAIN_TABLE, table);
    writer.string(CHAIN_NAME, &chain.name);
    writer.nested(CHAIN_HOOK, |hook| {
        hook.number(HOOK_NUMBER, hook_number(chain.hook));
        hook.bytes_of(HOOK_PRIORITY, &chain.priority.to_be_bytes());
    });
    writer.number(CHAIN_POLICY, NF_ACCEPT);
    writer.string(CHAIN_TYPE, chain_type(chain.hook));
    writer
}

/// Reads a base chain of the table. One that is unlike ours gets a priority that none of ours has.
fn read_chain(message: &[u8], table: &str) -> Option<BaseChain> {
    let chain = Attributes::new(message);
    if chain.string(CHAIN_TABLE)? != table {
        return None;
    }
    let name = chain.string(CHAIN_NAME)?;
    let read = || {
        let hook = Attributes::new(chain.value(CHAIN_HOOK)?);
        let priority = i32::from_be_bytes(hook.value(HOOK_PRIORITY)?.try_into().ok()?);
        let (number, kind) = (hook.number(HOOK_NUMBER)?, chain.string(CHAIN_TYPE)?);
        let hooks = [
            Hook::Prerouting,
            Hook::Input,
            Hook::Output,
            Hook::Forward,
            Hook::TranslateSource,
            Hook::TranslateDestination,
            Hook::TranslateOutgoing,
        ];
        let hook = hooks.into_iter().find(|hook| hook_number(*hook) == number && chain_type(*hook) == kind)?;
        (chain.number(CHAIN_POLICY)? == NF_ACCEPT).then_some((hook, priority))
    };
    let (hook, priority) = read().unwrap_or((Hook::Input, i32::MIN));
    Some(BaseChain { name, hook, priority, rules: Vec::new() })
}

fn write_rule(table: &str, chain: &str, rule: &Rule) -> Writer {
    let mut writer = Writer::default();
    writer.string(RULE_TABLE, table);
    writer.string(RULE_CHAIN, chain);
    writer.nested(RULE_EXPRESSIONS, |list| rule.expressions.iter().for_each(|one| expressions::write(list, one)));
    if let Some(comment) = &rule.comment {
        writer.bytes_of(RULE_USERDATA, &write_comment(comment));
    }
    writer
}

/// Returns the user data that listings show as a comment.
fn write_comment(comment: &str) -> Vec<u8> {
    let mut userdata = vec![USERDATA_COMMENT, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
    userdata.extend(comment.bytes().take(254));
    userdata.push(0);
    userdata
}

fn read_rule(message: &[u8], table: &str, chain: &str) -> Option<(u64, Rule)> {
    let rule = Attributes::new(message);
    if rule.string(RULE_TABLE)? != table || rule.string(RULE_CHAIN)? != chain {
        return None;
    }
    let handle = u64::from_be_bytes(rule.value(RULE_HANDLE)?.try_into().ok()?);
    let list = Attributes::new(rule.value(RULE_EXPRESSIONS).unwrap_or_default());
    let expressions = list.iter().map(|(_, expression)| expressions::read(expression)).collect();
    let comment = rule.value(RULE_USERDATA).and_then(read_comment);
    Some((handle, Rule { expressions, comment }))
}

fn read_comment(mut userdata: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*length))?;
        if *kind == USERDATA_COMMENT {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        userdata = &rest[usize::from(*length)..];
    }
    None
}

/// Hears that rules of the namespace changed.
#[derive(Debug)]
pub(super) struct Notifications {
    socket: Socket,
}

impl Notifications {
    pub(super) fn open() -> anyhow::Result<Self> {
        // NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
        rtnetlink::open_notifications(NETLINK_NETFILTER, &[7]).map(|socket| Self { socket })
    }

    /// Reads all that waits and tells whether there was anything but what the sockets with these numbers did.
    pub(super) fn drain(&self, own: &[u32]) -> bool {
        rtnetlink::drain(&self.socket, |news| senders(news).any(|sender| !own.contains(&sender)))
    }
}

/// Returns who is behind each message of a datagram.
fn senders(mut datagram: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let header = datagram.first_chunk::<16>()?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, sender) = (word(0) as usize, word(12));
        datagram = datagram.get(length.max(16).next_multiple_of(4)..).unwrap_or_default();
        Some(sender)
    })
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        rtnetlink::borrow(&self.socket)
    }
}

/// Tells whether the filter table of the family lives in legacy xtables, where nftables cannot reach it.
pub(super) fn legacy_filter(family: Family) -> anyhow::Result<bool> {
    let path = match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
        Family::Inet | Family::Bridge => bail!("legacy xtables have no table for several families"),
    };
    match std::fs::read_to_string(path) {
        Ok(names) => Ok(names.lines().any(|name| name == FILTER)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("failed to read {path}")),
    }
}
