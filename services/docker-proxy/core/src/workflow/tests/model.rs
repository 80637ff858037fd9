//! A model that drives many containers at random.

use proptest::prelude::*;

use super::*;

/// What may happen in the model.
#[derive(Debug, Clone)]
enum Transition {
    Start {
        container: usize,
        addresses: &'static str,
        waited_for: bool,
    },
    Prepare {
        container: usize,
        addresses: &'static str,
    },
    NotStarted {
        container: usize,
    },
    Add {
        container: usize,
        addresses: &'static str,
    },
    Detach {
        container: usize,
        addresses: &'static str,
    },
    Die {
        container: usize,
    },
    Remove {
        container: usize,
    },
    Rename {
        container: usize,
        name: &'static str,
    },
    Restart {
        service: usize,
    },
    Away {
        service: usize,
        away: bool,
    },
    /// So many steps are performed.
    Steps(usize),
    /// So many tenths of a second pass.
    Pass(u64),
}

fn transition() -> impl Strategy<Value = Transition> {
    let container = 0..3_usize;
    let addresses = proptest::sample::select(vec!["", "net:10.2.1.0/24", "10.2.2.1/24", "10.2.1.9/24 net:default"]);
    prop_oneof![
        3 => (container.clone(), addresses.clone(), any::<bool>()).prop_map(|(container, addresses, waited_for)|
            Transition::Start { container, addresses, waited_for }),
        2 => (container.clone(), addresses.clone()).prop_map(|(container, addresses)|
            Transition::Prepare { container, addresses }),
        1 => container.clone().prop_map(|container| Transition::NotStarted { container }),
        1 => (container.clone(), addresses.clone()).prop_map(|(container, addresses)|
            Transition::Add { container, addresses }),
        1 => (container.clone(), addresses).prop_map(|(container, addresses)|
            Transition::Detach { container, addresses }),
        2 => container.clone().prop_map(|container| Transition::Die { container }),
        1 => container.clone().prop_map(|container| Transition::Remove { container }),
        1 => (container, proptest::sample::select(vec!["", "a", "b"])).prop_map(|(container, name)|
            Transition::Rename { container, name }),
        1 => (0..3_usize).prop_map(|service| Transition::Restart { service }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(service, away)| Transition::Away { service, away }),
        4 => (1..6_usize).prop_map(Transition::Steps),
        2 => (1..50_u64).prop_map(Transition::Pass),
    ]
}

/// What the model knows of a container: the process that runs, and whether it was removed.
#[derive(Debug, Clone, Copy, Default)]
struct Reference {
    running: Option<u32>,
    touched: bool,
    removed: bool,
    detached: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn in_the_end_the_services_hold_what_the_engine_runs(transitions in proptest::collection::vec(transition(), 1..60)) {
        let mut s = Setting::new();
        let ids = ["a", "b", "c"].map(id);
        let mut reference = [Reference::default(); 3];
        let mut in_flight: BTreeMap<ContainerId, Step> = BTreeMap::new();
        let mut pid = 100;
        for transition in transitions {
            match transition {
                Transition::Start { container, addresses, waited_for } if !reference[container].removed => {
                    pid += 1;
                    reference[container] = Reference { running: Some(pid), touched: true, ..Reference::default() };
                    let deadline = waited_for.then(|| s.now + Duration::from_secs(3600));
                    s.workflow.handle_started(ids[container].clone(), goal(pid, addresses), deadline);
                }
                // The engine refuses to start what was removed meanwhile.
                Transition::Prepare { container, addresses } if reference[container].running.is_none() => {
                    s.workflow.prepare(ids[container].clone(), goal(0, addresses).addresses, false);
                    if reference[container].removed {
                        s.workflow.handle_not_started(&ids[container]);
                    }
                }
                Transition::NotStarted { container } => s.workflow.handle_not_started(&ids[container]),
                Transition::Add { container, addresses } => {
                    if let Some(pid) = reference[container].running {
                        reference[container].detached = false;
                        s.workflow.attach(ids[container].clone(), goal(pid, addresses), None);
                    }
                }
                Transition::Detach { container, addresses } => {
                    let arguments = crate::address::parse_list(addresses).expect("valid");
                    let known = s.workflow.detach(&ids[container], &arguments);
                    reference[container].detached |= known;
                }
                Transition::Die { container } => {
                    reference[container].running = None;
                    s.workflow.handle_died(&ids[container]);
                }
                Transition::Remove { container } => {
                    let touched = reference[container].touched;
                    reference[container] = Reference { removed: true, touched, ..Reference::default() };
                    s.workflow.handle_removed(&ids[container]);
                }
                Transition::Rename { container, name } => {
                    let names = Some(name.to_owned()).filter(|name| !name.is_empty()).into_iter().collect();
                    s.workflow.handle_renamed(&ids[container], names, false);
                }
                Transition::Restart { service } => {
                    s.workflow.handle_service_lost([Service::Ipam, Service::Router, Service::Dns][service]);
                }
                Transition::Away { service: 0, away } => s.world.ipam_away = away,
                Transition::Away { service: 1, away } => s.world.router_away = away,
                Transition::Away { away, .. } => s.world.dns_away = away,
                Transition::Steps(count) => {
                    for _ in 0..count {
                        if let Some((container, step)) = s.workflow.poll_step() {
                            // One step at a time for each container.
                            prop_assert!(in_flight.insert(container, step).is_none());
                        }
                        if let Some((container, step)) = in_flight.pop_first() {
                            let outcome = s.world.perform(&container, &step);
                            s.workflow.handle_outcome(&container, outcome, s.now);
                        }
                    }
                }
                Transition::Pass(tenths) => {
                    s.now += Duration::from_millis(100 * tenths);
                    s.workflow.handle_timeout(s.now);
                }
                Transition::Start { .. } | Transition::Prepare { .. } => {}
            }
        }
        (s.world.ipam_away, s.world.router_away, s.world.dns_away) = (false, false, false);
        for (container, step) in in_flight {
            let outcome = s.world.perform(&container, &step);
            s.workflow.handle_outcome(&container, outcome, s.now);
        }
        s.settle_for(Duration::from_secs(120));
        prop_assert_eq!(s.workflow.poll_timeout(), None);
        for (container, reference) in ids.iter().zip(reference) {
            let held: BTreeSet<DualAddress> = s.world.held.get(container).cloned().unwrap_or_default();
            let attached = s.world.attached.get(container);
            let status = s.workflow.status(container);
            match reference.running {
                Some(pid) if !reference.detached || status.is_some() => {
                    let status = status.expect("known");
                    prop_assert!(status.attached && status.problem.is_none(), "{status:?}");
                    let (attached_pid, addresses) = attached.expect("attached");
                    prop_assert_eq!(*attached_pid, pid);
                    let held_addresses: BTreeSet<IpNet> = held
                        .iter()
                        .flat_map(|address| [Some(IpNet::V4(address.v4)), address.v6.map(IpNet::V6)])
                        .flatten()
                        .collect();
                    prop_assert_eq!(addresses, &held_addresses);
                    let (names, addresses, _) = s.world.registered.get(container).expect("registered");
                    prop_assert_eq!(names, &status.names);
                    prop_assert_eq!(addresses.len(), held_addresses.len());
                }
                Some(_) | None => {
                    prop_assert!(status.is_none() && attached.is_none());
                    prop_assert!(!s.world.registered.contains_key(container));
                    if reference.removed {
                        prop_assert!(held.is_empty());
                    }
                }
            }
        }
    }
}
