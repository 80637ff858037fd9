use super::*;

const MAC: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 1]);
const FAR: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 9]);

fn sources(addresses: &[&str]) -> PortSources {
    let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    PortSources { mac: MAC, addresses, allowed: AllowedAddresses::default(), confirmed: true }
}

fn allowing(addresses: &[&str], allowed: &str) -> PortSources {
    PortSources { allowed: allowed.parse().expect("addresses"), ..sources(addresses) }
}

fn bridge() -> OverlayBridge {
    OverlayBridge { tap: "weft-tap".into(), dns_port: "weft-dns".into(), mac: FAR }
}

/// Makes the table as after a comparison, and what is in its sets.
fn compared(ports: &mut Ports) -> BTreeSet<PortElement> {
    ports.table(&bridge());
    ports.elements()
}

/// Does to a copy of the kernel's sets what it would be told.
fn apply(kernel: &mut BTreeSet<PortElement>, changes: PortChanges) {
    for element in changes.remove {
        assert!(kernel.remove(&element), "the kernel refuses to remove what is not there: {element:?}");
    }
    for element in changes.add {
        let taken = kernel.iter().any(|present| (&present.set, &present.key) == (&element.set, &element.key));
        assert!(!taken, "the kernel refuses another value for a key: {element:?}");
        kernel.insert(element);
    }
}

#[test]
fn a_start_adds_a_handful_of_elements_and_a_new_subnet_takes_another_table() {
    let mut ports = Ports::default();
    assert_eq!(ports.set("vethwa", Some(sources(&["10.32.0.1/12", "fd00::1/108"]))), None);
    assert_eq!(compared(&mut ports).len(), 6);
    let second = ports.set("vethwb", Some(sources(&["10.32.0.2/12", "fd00::2/108"]))).expect("the subnets are known");
    assert_eq!((second.remove.len(), second.add.len()), (0, 6));
    let again = ports.set("vethwb", Some(sources(&["10.32.0.2/12", "fd00::2/108"]))).expect("known");
    assert!(again.is_empty(), "nothing is new");
    assert_eq!(ports.set("vethwb", Some(sources(&["10.99.0.2/24"]))), None);
}

#[test]
fn one_change_after_the_other_leads_to_what_there_should_be() {
    let mut ports = Ports::default();
    let subnets = |text: &str| BTreeSet::from([text.parse::<IpNet>().expect("a subnet")]);
    ports.set("vethwz", Some(sources(&["10.32.0.9/12", "10.99.0.9/24"])));
    let mut kernel = compared(&mut ports);
    for addresses in [&["10.32.0.1/12"][..], &["10.32.0.1/12", "10.99.0.1/24"], &["10.99.0.7/24"], &[]] {
        apply(&mut kernel, ports.set("vethwa", Some(sources(addresses))).expect("known"));
        apply(&mut kernel, ports.set_remote([(FAR, subnets("10.99.0.0/24"))].into()));
        apply(&mut kernel, ports.set_remote([(FAR, subnets("10.32.0.0/12"))].into()));
    }
    assert_eq!(kernel, ports.elements());
    apply(&mut kernel, ports.set("vethwa", None).expect("known"));
    apply(&mut kernel, ports.set_remote([(FAR, subnets("10.1.0.0/24"))].into()));
    assert_eq!(kernel, ports.elements(), "nobody here shares that subnet");
    assert_eq!(kernel.len(), 6);
}

#[test]
fn names_of_sets_are_read_back() {
    for subnet in ["10.32.0.0/12", "fd12:3456::a20:0/108", "::/0"] {
        let subnet: IpNet = subnet.parse().expect("a subnet");
        for set in [PortSet::Ports(subnet), PortSet::Macs(subnet)] {
            assert_eq!(PortSet::named(&set.name()), Some(set));
        }
    }
    assert_eq!(PortSet::named("ports-x"), None);
}

#[test]
fn what_ports_may_send_is_read_again_from_the_kernel() {
    let mut ports = Ports::default();
    let one = allowing(&["10.32.0.1/12", "10.99.0.1/24", "fd00::1/108"], "10.32.0.100,10.50.0.0/31,fd00::64");
    let none = sources(&[]);
    ports.set("vethwa", Some(one.clone()));
    ports.set("vethwb", Some(none.clone()));
    assert_eq!(remembered(&compared(&mut ports)), [("vethwa".to_owned(), one), ("vethwb".to_owned(), none)].into());
    ports.set("vethwb", Some(PortSources { confirmed: false, ..sources(&["10.32.0.7/12"]) }));
    let names: Vec<_> = remembered(&compared(&mut ports)).into_keys().collect();
    assert_eq!(names, ["vethwa"], "what a container showed is nothing that is remembered");
    let short = PortElement { set: PortSet::Sources, key: vec![1; 17], comment: None };
    assert_eq!(remembered(&[short].into()), BTreeMap::new());
}

#[test]
fn each_rule_that_drops_what_a_container_did_wrong_says_why() {
    let subnets = ["10.32.0.0/12".parse().expect("a subnet")].into();
    let table = ports_table(&bridge(), &subnets, &subnets);
    assert!(table.sets.is_sorted_by(|one, other| one.name < other.name), "as they are read back");
    let counts = |rule: &&super::super::Rule| rule.expressions.contains(&super::super::Expression::Counter);
    let rules = table.chains.iter().flat_map(|chain| &chain.rules).filter(counts);
    let reasons: BTreeSet<_> =
        rules.map(|rule| rule.comment.as_deref().and_then(drop_reason).expect("a reason")).collect();
    use DropReason::{ForbiddenService, ForeignSubnet, SpoofedAddress, SpoofedSource, VlanTagged};
    assert_eq!(reasons, [ForbiddenService, VlanTagged, SpoofedSource, SpoofedAddress, ForeignSubnet].into());
}

#[test]
fn allowed_addresses_come_and_go_and_make_nobody_a_member() {
    let mut ports = Ports::default();
    ports.set("vethwa", Some(sources(&["10.32.0.1/12"])));
    let mut kernel = compared(&mut ports);
    let of = |kernel: &BTreeSet<PortElement>, set: PortSet| kernel.iter().filter(|one| one.set == set).count();
    // One of them is its own already, another becomes its own, and one is in a subnet that nobody is in.
    let all = "10.32.0.1,10.32.0.100,10.77.0.1,fe80::ff:fe00:1,fd00::64";
    apply(&mut kernel, ports.set("vethwa", Some(allowing(&["10.32.0.1/12"], all))).expect("no other subnet"));
    assert_eq!((of(&kernel, PortSet::Sources4), of(&kernel, PortSet::Sources6)), (3, 2));
    apply(&mut kernel, ports.set("vethwa", Some(allowing(&["10.32.0.1/12", "10.32.0.100/12"], all))).expect("known"));
    assert_eq!((of(&kernel, PortSet::Sources4), of(&kernel, PortSet::Sources6)), (3, 2));
    assert_eq!(kernel, ports.elements());
    apply(&mut kernel, ports.set("vethwa", Some(sources(&["10.32.0.1/12"]))).expect("known"));
    assert_eq!((of(&kernel, PortSet::Sources4), of(&kernel, PortSet::Sources6)), (1, 1));
    assert_eq!(kernel, ports.elements());
}

#[test]
fn a_host_in_a_subnet_has_its_set_though_no_container_here_is_in_it() {
    let mut ports = Ports::default();
    let subnet: IpNet = "10.32.0.0/12".parse().expect("a subnet");
    ports.set_remote([(FAR, BTreeSet::from([subnet]))].into());
    let names =
        |ports: &mut Ports| ports.table(&bridge()).chains.into_iter().map(|chain| chain.name).collect::<Vec<_>>();
    assert_eq!(names(&mut ports), ["forward", "prerouting"], "a host that is no station is kept out by another table");
    assert!(ports.set_host([subnet].into()) && !ports.set_host([subnet].into()), "news once");
    assert_eq!(names(&mut ports), ["forward", "input", "output", "prerouting"], "as they are read back");
    let macs: Vec<_> = ports.elements().into_iter().map(|element| element.set).collect();
    assert_eq!(macs, [PortSet::Macs(subnet)]);
    assert!(ports.set_host(BTreeSet::new()));
    assert_eq!(names(&mut ports), ["forward", "prerouting"]);
}
