//! Histories of single containers.

mod model;

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Stands for the other services: performs steps at once, unless a service is away.
#[derive(Debug, Default)]
struct World {
    held: BTreeMap<ContainerId, BTreeSet<DualAddress>>,
    attached: BTreeMap<ContainerId, (u32, BTreeSet<IpNet>)>,
    registered: BTreeMap<ContainerId, (Vec<String>, Vec<IpAddr>, bool)>,
    ipam_away: bool,
    router_away: bool,
    dns_away: bool,
    /// Interfaces get no IPv6.
    no_ipv6: bool,
    /// The router refuses these processes for good.
    refused: BTreeSet<u32>,
    given: u32,
    log: Vec<String>,
}

fn dual(v4: Ipv4Net) -> DualAddress {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[12..].copy_from_slice(&v4.addr().octets());
    DualAddress { v4, v6: Some(Ipv6Net::new_assert(octets.into(), 96 + v4.prefix_len())) }
}

fn away() -> Outcome {
    Outcome::Failed { reason: "away".to_owned(), permanent: false }
}

impl World {
    fn perform(&mut self, container: &ContainerId, step: &Step) -> Outcome {
        let name = format!("{step:?}");
        self.log.push(name.split([' ', '{']).next().unwrap_or_default().to_owned());
        match step {
            Step::Lookup | Step::Allocate { .. } | Step::Claim { .. } | Step::Free { .. } if self.ipam_away => away(),
            Step::Attach { .. } | Step::Detach { .. } if self.router_away => away(),
            Step::Register { .. } | Step::Deregister if self.dns_away => away(),
            Step::Lookup => Outcome::Held(self.held.get(container).into_iter().flatten().copied().collect()),
            Step::Allocate { subnet } => {
                let subnet = subnet.unwrap_or_else(|| "10.32.0.0/12".parse().expect("valid"));
                let held = self.held.entry(container.clone()).or_default();
                let known = held.iter().find(|address| address.v4.trunc() == subnet.trunc()).copied();
                let address = known.unwrap_or_else(|| {
                    self.given += 1;
                    let ip = u32::from(subnet.network()) + self.given;
                    dual(Ipv4Net::new_assert(ip.into(), subnet.prefix_len()))
                });
                held.insert(address);
                Outcome::Given(address)
            }
            Step::Claim { address } => {
                self.held.entry(container.clone()).or_default().insert(dual(*address));
                Outcome::Given(dual(*address))
            }
            Step::Attach { pid, .. } if self.refused.contains(pid) => {
                Outcome::Failed { reason: "the process is gone".to_owned(), permanent: true }
            }
            Step::Attach { pid, addresses } => {
                let usable = addresses.iter().copied().filter(|address| !self.no_ipv6 || address.addr().is_ipv4());
                let usable: BTreeSet<IpNet> = usable.collect();
                self.attached.insert(container.clone(), (*pid, usable.clone()));
                Outcome::Attached(usable.into_iter().collect())
            }
            Step::Register { names, addresses, unhealthy } => {
                self.registered.insert(container.clone(), (names.clone(), addresses.clone(), *unhealthy));
                Outcome::Done
            }
            Step::Deregister => {
                self.registered.remove(container);
                Outcome::Done
            }
            Step::Detach { addresses } => {
                if let Some((_, attached)) = self.attached.get_mut(container) {
                    attached.retain(|address| !addresses.contains(address));
                    if attached.is_empty() || addresses.is_empty() {
                        self.attached.remove(container);
                    }
                }
                Outcome::Done
            }
            Step::Free { addresses } => {
                if let Some(held) = self.held.get_mut(container) {
                    held.retain(|address| !addresses.is_empty() && !addresses.contains(&address.v4));
                }
                Outcome::Done
            }
        }
    }

    /// Performs everything that is due, and passes time while something is to be tried again.
    fn settle(&mut self, workflow: &mut Workflow, now: &mut Instant, until: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            while let Some((container, step)) = workflow.poll_step() {
                let outcome = self.perform(&container, &step);
                workflow.handle_outcome(&container, outcome, *now);
            }
            events.extend(std::iter::from_fn(|| workflow.poll_event()));
            match workflow.poll_timeout() {
                Some((at, _)) if at <= until => *now = at.max(*now),
                _ => return events,
            }
            workflow.handle_timeout(*now);
        }
    }

    fn take_log(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }

    fn addresses(&self, container: &ContainerId) -> Vec<String> {
        let attached = self.attached.get(container).into_iter().flat_map(|(_, addresses)| addresses);
        attached.filter(|address| address.addr().is_ipv4()).map(ToString::to_string).collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
fn beginning() -> Instant {
    Instant::now()
}

fn id(name: &str) -> ContainerId {
    name.parse().expect("valid")
}

fn goal(pid: u32, addresses: &str) -> Goal {
    let addresses = crate::address::parse_list(addresses).expect("valid");
    Goal { pid, addresses, names: vec!["db".to_owned()], unhealthy: false }
}

struct Setting {
    workflow: Workflow,
    world: World,
    now: Instant,
}

impl Setting {
    fn new() -> Self {
        Self { workflow: Workflow::new(), world: World::default(), now: beginning() }
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.now + Duration::from_secs(10))
    }

    fn settle(&mut self) -> Vec<Event> {
        self.settle_for(Duration::ZERO)
    }

    fn settle_for(&mut self, time: Duration) -> Vec<Event> {
        let until = self.now + time;
        let events = self.world.settle(&mut self.workflow, &mut self.now, until);
        self.now = until;
        events
    }
}

fn ready(event: &Event) -> Option<(u32, usize)> {
    match event {
        Event::Ready { pid, addresses, .. } => Some((*pid, addresses.len())),
        Event::Failed { .. } | Event::Gone { .. } => None,
    }
}

#[test]
fn a_container_gets_addresses_then_interface_then_names_and_loses_them_in_reverse() {
    let mut s = Setting::new();
    let db = id("db");
    s.workflow.handle_started(db.clone(), goal(7, "net:10.2.1.0/24 10.2.2.1/24"), s.deadline());
    let events = s.settle();
    assert_eq!(events.iter().map(ready).collect::<Vec<_>>(), [Some((7, 2))]);
    assert_eq!(s.world.take_log(), "Lookup Allocate Claim Attach Register");
    assert_eq!(s.world.registered[&db].1.len(), 4);

    s.workflow.handle_died(&db);
    assert_eq!(s.settle(), [Event::Gone { container: db.clone() }]);
    assert_eq!(s.world.take_log(), "Deregister Detach");
    assert_eq!(s.world.held[&db].len(), 2);

    s.workflow.handle_started(db.clone(), goal(8, "net:10.2.1.0/24 10.2.2.1/24"), None);
    s.settle();
    assert_eq!(s.world.attached[&db].0, 8);
    s.world.take_log();
    s.workflow.handle_removed(&db);
    assert_eq!(s.settle(), [Event::Gone { container: db.clone() }]);
    assert_eq!(s.world.take_log(), "Deregister Detach Free");
    assert!(s.world.held[&db].is_empty() && s.world.attached.is_empty() && s.world.registered.is_empty());
    assert_eq!(s.workflow.poll_timeout(), None);
}

#[test]
fn a_start_that_the_engine_refuses_is_over_once_its_address_went_back() {
    let mut s = Setting::new();
    let db = id("db");
    s.workflow.prepare(db.clone(), goal(0, "").addresses, false);
    assert_eq!(s.settle(), []);
    assert!(s.workflow.is_under_way(&db) && !s.world.held[&db].is_empty());
    s.workflow.handle_not_started(&db);
    let (_, step) = s.workflow.poll_step().expect("a step");
    assert!(s.workflow.is_under_way(&db));
    let outcome = s.world.perform(&db, &step);
    s.workflow.handle_outcome(&db, outcome, s.now);
    assert_eq!(s.settle(), []);
    assert!(!s.workflow.is_under_way(&db) && s.world.held[&db].is_empty());

    s.workflow.handle_started(db.clone(), goal(7, ""), s.deadline());
    assert_eq!(s.settle().len(), 1);
    s.workflow.handle_not_started(&db);
    assert_eq!(s.settle(), []);
    assert!(!s.workflow.is_under_way(&db), "it runs, and has all");
}

#[test]
fn what_was_taken_at_the_end_is_not_taken_again_at_the_removal() {
    let mut s = Setting::new();
    let db = id("db");
    let live_and_die = |s: &mut Setting, new: bool| {
        s.workflow.prepare(db.clone(), goal(0, "").addresses, new);
        s.settle();
        s.workflow.handle_started(db.clone(), goal(7, ""), s.deadline());
        s.settle();
        let lived = s.world.take_log();
        s.workflow.handle_died(&db);
        s.settle();
        assert_eq!(s.world.take_log(), "Deregister Detach");
        lived
    };
    let remove = |s: &mut Setting| {
        s.workflow.handle_removed(&id("db"));
        s.settle();
        assert!(s.world.held[&id("db")].is_empty());
        s.world.take_log()
    };
    assert_eq!(live_and_die(&mut s, true), "Allocate Attach Register", "one that was just made holds nothing");
    assert_eq!(remove(&mut s), "Free");
    assert_eq!(live_and_die(&mut s, false), "Lookup Allocate Attach Register");
    s.workflow.handle_service_lost(Service::Router);
    assert_eq!(remove(&mut s), "Deregister Detach Free", "the router may have it again");
    assert_eq!(remove(&mut s), "Deregister Detach Free", "nothing is known of it any more");
}

#[test]
fn stating_the_same_again_does_nothing_but_answers() {
    let mut s = Setting::new();
    s.workflow.handle_started(id("db"), goal(7, ""), s.deadline());
    s.settle();
    s.world.take_log();
    s.workflow.handle_started(id("db"), goal(7, ""), None);
    assert_eq!(s.settle().iter().map(ready).collect::<Vec<_>>(), [Some((7, 1))]);
    assert_eq!(s.world.take_log(), "");
}

#[test]
fn the_newest_process_wins_while_a_step_is_under_way() {
    let mut s = Setting::new();
    let db = id("db");
    s.workflow.handle_started(db.clone(), goal(7, ""), None);
    loop {
        let (_, step) = s.workflow.poll_step().expect("a step");
        let attaching = matches!(step, Step::Attach { .. });
        if attaching {
            s.workflow.handle_died(&db);
            s.workflow.handle_started(db.clone(), goal(8, ""), s.deadline());
            // That the old process is gone must not fail the new one.
            let outcome = Outcome::Failed { reason: "no such process".to_owned(), permanent: true };
            s.workflow.handle_outcome(&db, outcome, s.now);
            break;
        }
        let outcome = s.world.perform(&db, &step);
        s.workflow.handle_outcome(&db, outcome, s.now);
    }
    assert_eq!(s.settle().iter().map(ready).collect::<Vec<_>>(), [Some((8, 1))]);
    assert_eq!(s.world.attached[&db].0, 8);
}

#[test]
fn a_container_that_dies_while_it_is_attached_is_detached_at_once() {
    let mut s = Setting::new();
    let db = id("db");
    s.world.router_away = true;
    s.workflow.handle_started(db.clone(), goal(7, ""), None);
    s.settle_for(Duration::from_secs(60));
    s.world.router_away = false;
    s.workflow.handle_died(&db);
    assert_eq!(s.settle(), [Event::Gone { container: db }]);
}

#[test]
fn a_start_that_cannot_be_attached_fails_at_once_and_is_undone() {
    let mut s = Setting::new();
    let db = id("db");
    s.world.refused.insert(7);
    s.workflow.handle_started(db.clone(), goal(7, ""), s.deadline());
    let failed = Event::Failed { container: db.clone(), pid: 7, reason: "the process is gone".to_owned() };
    assert_eq!(s.settle(), [failed]);
    assert_eq!(s.world.take_log(), "Lookup Allocate Attach Detach Free");
    assert!(s.world.held[&db].is_empty());
}

#[test]
fn addresses_held_before_survive_a_failed_start() {
    let mut s = Setting::new();
    let db = id("db");
    s.workflow.handle_started(db.clone(), goal(7, ""), None);
    s.settle();
    s.workflow.handle_died(&db);
    s.settle();
    s.world.refused.insert(8);
    s.workflow.handle_started(db.clone(), goal(8, "net:default 10.2.2.1/24"), s.deadline());
    s.settle();
    assert_eq!(s.world.held[&db].len(), 1);
    assert!(s.world.attached.is_empty());
}

#[test]
fn a_start_is_given_up_at_its_deadline_with_the_last_reason() {
    let mut s = Setting::new();
    s.world.ipam_away = true;
    s.workflow.handle_started(id("db"), goal(7, ""), s.deadline());
    assert_eq!(s.settle_for(Duration::from_secs(9)), []);
    let failed = Event::Failed { container: id("db"), pid: 7, reason: "away".to_owned() };
    assert_eq!(s.settle_for(Duration::from_secs(2)), [failed]);
    // Nothing was got, so nothing has to be undone.
    assert_eq!(s.workflow.poll_timeout(), None);
}

#[test]
fn without_a_deadline_it_is_tried_until_the_service_is_back() {
    let mut s = Setting::new();
    s.world.ipam_away = true;
    s.workflow.handle_started(id("db"), goal(7, ""), None);
    assert_eq!(s.settle_for(Duration::from_secs(600)), []);
    let problem = s.workflow.status(&id("db")).and_then(|status| status.problem).expect("a problem");
    assert_eq!(problem.0, "away");
    assert!(s.world.log.len() < 40, "{}", s.world.log.len());
    s.world.ipam_away = false;
    s.workflow.handle_service_lost(Service::Ipam);
    assert_eq!(s.settle().iter().map(ready).collect::<Vec<_>>(), [Some((7, 1))]);
    assert_eq!(s.workflow.status(&id("db")).and_then(|status| status.problem), None);
}

#[test]
fn names_never_hold_up_a_network() {
    let mut s = Setting::new();
    s.world.dns_away = true;
    s.workflow.handle_started(id("db"), goal(7, ""), s.deadline());
    let events = s.settle_for(Duration::from_secs(2));
    assert_eq!(events.iter().map(ready).collect::<Vec<_>>(), [Some((7, 1))]);
    assert!(s.workflow.status(&id("db")).is_some_and(|status| status.attached && status.problem.is_some()));
    s.world.dns_away = false;
    s.settle_for(Duration::from_secs(60));
    assert!(s.world.registered.contains_key(&id("db")));
    assert!(s.workflow.status(&id("db")).is_some_and(|status| status.problem.is_none()));
}

#[test]
fn what_a_service_forgot_is_stated_again() {
    let mut s = Setting::new();
    let db = id("db");
    s.workflow.handle_started(db.clone(), goal(7, ""), None);
    s.settle();
    for (service, log) in [(Service::Dns, "Register"), (Service::Router, "Attach"), (Service::Ipam, "Lookup Allocate")]
    {
        s.world.take_log();
        s.workflow.handle_service_lost(service);
        assert_eq!(s.settle(), [], "{service:?}");
        assert_eq!(s.world.take_log(), log, "{service:?}");
    }
    // An ipam without memory may give another address, which then replaces the old one.
    s.world.held.clear();
    s.workflow.handle_service_lost(Service::Ipam);
    s.settle();
    assert_eq!(s.world.addresses(&db), ["10.32.0.2/12"]);
}

#[test]
fn names_and_health_change_while_it_runs() {
    let mut s = Setting::new();
    s.workflow.handle_started(id("db"), goal(7, ""), None);
    s.settle();
    s.world.take_log();
    s.workflow.handle_renamed(&id("db"), vec!["store".to_owned()], true);
    assert_eq!(s.settle(), []);
    assert_eq!(s.world.take_log(), "Register");
    s.workflow.handle_renamed(&id("db"), Vec::new(), true);
    s.settle();
    assert_eq!(s.world.take_log(), "Register");
    assert_eq!(s.world.registered[&id("db")].0, [""; 0]);
}

#[test]
fn one_without_names_keeps_what_dns_has_of_it_by_hand() {
    let mut s = Setting::new();
    let db = id("db");
    // Deregistering takes names by hand, too; so do addresses that it is not told of.
    s.workflow.handle_started(db.clone(), Goal { names: Vec::new(), ..goal(7, "") }, None);
    s.settle();
    assert_eq!(s.world.take_log(), "Lookup Allocate Attach Register");
    s.workflow.handle_service_lost(Service::Dns);
    s.settle();
    assert_eq!(s.world.take_log(), "Register");
    assert_eq!(s.world.registered[&db].1.len(), 2);

    s.workflow.attach(db.clone(), goal(7, "10.2.2.1/24"), s.deadline());
    s.workflow.handle_renamed(&db, Vec::new(), false);
    s.settle();
    assert_eq!(s.world.registered[&db].1.len(), 4);
    s.workflow.detach(&db, &crate::address::parse_list("10.2.2.1/24").expect("valid"));
    s.settle();
    assert_eq!(s.world.registered[&db].1.len(), 2, "names by hand of the address that it lost go");
    s.workflow.handle_died(&db);
    s.settle();
    assert!(s.world.registered.is_empty());
}

#[test]
fn addresses_are_added_and_taken_away_by_hand() {
    let mut s = Setting::new();
    let db = id("db");
    s.workflow.handle_started(db.clone(), goal(7, ""), None);
    s.settle();
    s.workflow.attach(db.clone(), goal(7, "10.2.2.1/24"), s.deadline());
    assert_eq!(s.settle().iter().map(ready).collect::<Vec<_>>(), [Some((7, 2))]);
    assert_eq!(s.world.addresses(&db), ["10.2.2.1/24", "10.32.0.1/12"]);

    // A restart, also of the proxy, keeps them.
    s.workflow.handle_died(&db);
    s.settle();
    s.workflow.handle_started(db.clone(), goal(8, ""), None);
    s.settle();
    assert_eq!(s.world.addresses(&db), ["10.2.2.1/24", "10.32.0.1/12"]);

    s.world.take_log();
    assert!(s.workflow.detach(&db, &crate::address::parse_list("10.2.2.1/24").expect("valid")));
    assert_eq!(s.settle().iter().map(ready).collect::<Vec<_>>(), [Some((8, 1))]);
    assert_eq!(s.world.take_log(), "Register Detach Free");
    assert_eq!(s.world.addresses(&db), ["10.32.0.1/12"]);

    assert!(s.workflow.detach(&db, &[AddressArgument::Default]));
    assert_eq!(s.settle(), [Event::Gone { container: db.clone() }]);
    assert!(s.world.held[&db].is_empty() && s.world.attached.is_empty());
    assert!(!s.workflow.detach(&db, &[]));
}

#[test]
fn what_cannot_be_added_leaves_the_rest_as_it_was() {
    let mut s = Setting::new();
    let db = id("db");
    s.workflow.handle_started(db.clone(), goal(7, ""), None);
    s.settle();
    s.world.refused.insert(7);
    s.workflow.attach(db.clone(), goal(7, "10.2.2.1/24"), s.deadline());
    assert!(matches!(s.settle().as_slice(), [Event::Failed { .. }]));
    assert_eq!(s.world.addresses(&db), ["10.32.0.1/12"]);
    assert_eq!(s.world.held[&db].len(), 1);
    assert!(s.workflow.status(&db).is_some_and(|status| status.attached));
}

#[test]
fn names_mean_only_the_addresses_that_the_interface_took() {
    let mut s = Setting::new();
    let db = id("db");
    s.world.no_ipv6 = true;
    s.workflow.handle_started(db.clone(), goal(7, "net:default 10.2.2.1/24"), s.deadline());
    let events = s.settle();
    let [Event::Ready { addresses, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert!(addresses.len() == 2 && addresses.iter().all(|address| address.v6.is_none()), "{addresses:?}");
    let registered = |s: &Setting| s.world.registered[&db].1.clone();
    assert!(registered(&s).len() == 2 && registered(&s).iter().all(IpAddr::is_ipv4), "{:?}", registered(&s));
    assert!(s.workflow.status(&db).is_some_and(|status| status.addresses.iter().all(|address| address.v6.is_none())));

    // A router that starts anew with another MTU may have IPv6.
    s.world.no_ipv6 = false;
    s.world.take_log();
    s.workflow.handle_service_lost(Service::Router);
    s.settle();
    assert_eq!(s.world.take_log(), "Attach Register");
    assert_eq!(registered(&s).len(), 4);

    s.world.no_ipv6 = true;
    s.workflow.handle_service_lost(Service::Router);
    s.settle();
    assert!(s.workflow.detach(&db, &[AddressArgument::Default]));
    s.settle();
    assert_eq!(registered(&s), [IpAddr::from([10, 2, 2, 1])]);
    assert_eq!(s.world.held[&db].len(), 1);
}

#[test]
fn addresses_are_got_while_the_engine_starts_the_container() {
    let mut s = Setting::new();
    let db = id("db");
    let asked = goal(7, "net:default 10.2.2.1/24");
    s.workflow.prepare(db.clone(), asked.addresses.clone(), false);
    assert_eq!(s.settle(), []);
    assert_eq!(s.world.take_log(), "Lookup Allocate Claim");
    assert_eq!(s.workflow.status(&db), None);
    s.workflow.handle_started(db.clone(), asked, s.deadline());
    assert_eq!(s.settle().iter().map(ready).collect::<Vec<_>>(), [Some((7, 2))]);
    assert_eq!(s.world.take_log(), "Attach Register");
    // It runs: neither matters any more.
    s.workflow.prepare(db.clone(), vec![AddressArgument::Default], false);
    s.workflow.handle_not_started(&db);
    assert_eq!(s.settle(), []);
    assert_eq!(s.world.take_log(), "");
}

#[test]
fn what_was_got_for_a_start_that_did_not_happen_goes_back() {
    for ends_while_asking in [false, true] {
        for removed in [false, true] {
            let mut s = Setting::new();
            let db = id("db");
            s.workflow.prepare(db.clone(), vec![AddressArgument::Default], false);
            if ends_while_asking {
                let (_, lookup) = s.workflow.poll_step().expect("a step");
                let outcome = s.world.perform(&db, &lookup);
                s.workflow.handle_outcome(&db, outcome, s.now);
                let (_, allocate) = s.workflow.poll_step().expect("a step");
                let outcome = s.world.perform(&db, &allocate);
                s.workflow.handle_not_started(&db);
                if removed {
                    s.workflow.handle_removed(&db);
                }
                assert_eq!(s.workflow.poll_step(), None);
                s.workflow.handle_outcome(&db, outcome, s.now);
            } else {
                s.settle();
                assert_eq!(s.world.held[&db].len(), 1);
                if removed {
                    s.workflow.handle_removed(&db);
                }
                s.workflow.handle_not_started(&db);
            }
            s.settle();
            assert!(s.world.held[&db].is_empty(), "{ends_while_asking} {removed}: {:?}", s.world.log);
            assert_eq!(s.workflow.poll_timeout(), None);
            assert!(s.workflow.containers.is_empty());
        }
    }
    // What it held before stays.
    let mut s = Setting::new();
    let db = id("db");
    s.workflow.handle_started(db.clone(), goal(7, ""), None);
    s.settle();
    s.workflow.handle_died(&db);
    s.settle();
    s.workflow.prepare(db.clone(), vec![AddressArgument::Default], false);
    s.settle();
    s.workflow.handle_not_started(&db);
    s.settle();
    assert_eq!(s.world.held[&db].len(), 1);
}

#[test]
fn preparing_in_vain_is_left_to_the_start() {
    let mut s = Setting::new();
    let db = id("db");
    s.world.ipam_away = true;
    s.workflow.prepare(db.clone(), vec![AddressArgument::Default], false);
    assert_eq!(s.settle_for(Duration::from_secs(60)), []);
    assert_eq!(s.world.take_log(), "Lookup");
    s.workflow.handle_started(db.clone(), goal(7, ""), s.deadline());
    s.settle();
    s.world.ipam_away = false;
    assert_eq!(s.settle_for(Duration::from_secs(5)).iter().map(ready).collect::<Vec<_>>(), [Some((7, 1))]);
}
