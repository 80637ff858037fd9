//! Who may exchange frames: containers that are in a subnet together.
//!
//! What a container is in, all its subnets together, is a [`Group`]. A host has few of them however many containers it has, so
//! that whether two containers share a subnet is a look at two short lists.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

/// All containers that are in exactly the same subnets, as this process numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u32);

/// Numbers groups, and knows which of them share a subnet. What it takes grows with the subnets of all groups, not with the pairs of
/// groups, because peers decide how many there are.
#[derive(Debug, Default)]
pub struct Groups {
    numbers: BTreeMap<BTreeSet<IpNet>, Group>,
    subnets: BTreeMap<IpNet, u32>,
    /// Numbers of the subnets of each group, in order.
    members: Vec<Box<[u32]>>,
}

impl Groups {
    /// Returns the group of what is in these subnets. What is in none shares nothing, not even with its like.
    pub fn of(&mut self, subnets: &BTreeSet<IpNet>) -> Group {
        if let Some(group) = self.numbers.get(subnets) {
            return *group;
        }
        // Four thousand million sets of subnets are more than there is memory for, and so are as many subnets.
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let group = Group(number(self.members.len()));
        let mut numbers: Vec<u32> = Vec::with_capacity(subnets.len());
        for subnet in subnets {
            let next = number(self.subnets.len());
            numbers.push(*self.subnets.entry(*subnet).or_insert(next));
        }
        numbers.sort_unstable();
        self.numbers.insert(subnets.clone(), group);
        self.members.push(numbers.into());
        group
    }

    /// Tells whether two groups have a subnet in common.
    #[must_use]
    pub fn share(&self, one: Group, other: Group) -> bool {
        let (one, other) = (self.subnets(one), self.subnets(other));
        let (few, many) = if one.len() <= other.len() { (one, other) } else { (other, one) };
        few.iter().any(|subnet| many.binary_search(subnet).is_ok())
    }

    /// Returns the subnets of a group, in order of the numbers that they have here.
    #[must_use]
    pub fn subnets(&self, group: Group) -> &[u32] {
        self.members.get(group.0 as usize).map(|subnets| &**subnets).unwrap_or_default()
    }
}

/// Returns the subnets that interface addresses are in.
pub fn subnets<'a>(addresses: impl IntoIterator<Item = &'a IpNet>) -> BTreeSet<IpNet> {
    addresses.into_iter().map(IpNet::trunc).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> BTreeSet<IpNet> {
        let addresses: Vec<IpNet> = texts.iter().map(|text| text.parse().expect("an address")).collect();
        subnets(&addresses)
    }

    #[test]
    fn who_is_in_several_subnets_shares_with_each() {
        let mut groups = Groups::default();
        let [one, other, both, none] = [&["10.1.0.1/16"][..], &["10.2.0.1/16"], &["10.1.0.9/16", "10.2.0.9/16"], &[]]
            .map(|texts| groups.of(&set(texts)));
        assert!(groups.share(one, one) && groups.share(one, both) && groups.share(both, other));
        assert!(!groups.share(one, other), "a container in both is no way between them");
        assert!(!groups.share(none, none) && !groups.share(none, both));
        assert_eq!(groups.of(&set(&["10.1.0.77/16"])), one, "the number is the subnets' alone");
    }

    #[test]
    fn as_many_groups_as_a_peer_can_publish_take_no_more_than_they_say() {
        let mut groups = Groups::default();
        let common: IpNet = "10.32.0.0/12".parse().expect("a subnet");
        let with_common = |number: u32| {
            let own = IpNet::new(std::net::Ipv4Addr::from(0x0b00_0000 + number * 256).into(), 24).expect("a subnet");
            BTreeSet::from([common, own])
        };
        // Entries of one origin. Their pairs would be four thousand million.
        let all: Vec<Group> = (0..65_536).map(|number| groups.of(&with_common(number))).collect();
        let alone = groups.of(&set(&["11.0.7.1/24"]));
        assert!(all.windows(2).all(|pair| groups.share(pair[0], pair[1])));
        let sharing: Vec<Group> = all.iter().copied().filter(|group| groups.share(*group, alone)).collect();
        assert_eq!(sharing, [all[7]]);
        assert_eq!(groups.subnets(alone).len(), 1);
    }

    #[test]
    fn nested_subnets_are_different_ones() {
        let mut groups = Groups::default();
        let [wide, narrow] = [["10.32.0.1/12"], ["10.32.2.1/24"]].map(|texts| groups.of(&set(&texts)));
        assert!(!groups.share(wide, narrow));
    }
}
