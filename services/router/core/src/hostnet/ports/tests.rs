use super::*;

const MAC: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 1]);
const FAR: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 9]);

fn sources(addresses: &[&str]) -> PortSources {
    PortSources { mac: MAC, addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect() }
}

/// Makes the table as after a comparison, and what is in its sets.
fn compared(ports: &mut Ports) -> BTreeSet<PortElement> {
    ports.table("weft-tap", "weft-dns");
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
    let (one, none) = (sources(&["10.32.0.1/12", "10.99.0.1/24", "fd00::1/108"]), sources(&[]));
    ports.set("vethwa", Some(one.clone()));
    ports.set("vethwb", Some(none.clone()));
    assert_eq!(remembered(&compared(&mut ports)), [("vethwa".to_owned(), one), ("vethwb".to_owned(), none)].into());
    let short = PortElement { set: PortSet::Sources, key: vec![1; 17], comment: None };
    assert_eq!(remembered(&[short].into()), BTreeMap::new());
}

#[test]
fn each_rule_that_drops_what_a_container_did_wrong_says_why() {
    let table = ports_table("weft-tap", "weft-dns", &["10.32.0.0/12".parse().expect("a subnet")].into());
    assert!(table.sets.is_sorted_by(|one, other| one.name < other.name), "as they are read back");
    let counts = |rule: &&super::super::Rule| rule.expressions.contains(&super::super::Expression::Counter);
    let rules = table.chains.iter().flat_map(|chain| &chain.rules).filter(counts);
    let reasons: BTreeSet<_> =
        rules.map(|rule| rule.comment.as_deref().and_then(drop_reason).expect("a reason")).collect();
    use DropReason::{ForbiddenService, ForeignSubnet, SpoofedAddress, SpoofedSource, VlanTagged};
    assert_eq!(reasons, [ForbiddenService, VlanTagged, SpoofedSource, SpoofedAddress, ForeignSubnet].into());
}
