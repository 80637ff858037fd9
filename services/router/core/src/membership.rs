//! Who may exchange frames: containers that are in a subnet together.
//!
//! What a container is in, all its subnets together, is a [`Group`]. A host has few of them however many containers it has, so
//! that whether two containers share a subnet is a look at a set of pairs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ipnet::IpNet;

/// All containers that are in exactly the same subnets, as this process numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u32);

/// Numbers groups, and knows which of them share a subnet.
#[derive(Debug, Default)]
pub struct Groups {
    numbers: BTreeMap<BTreeSet<IpNet>, Group>,
    by_subnet: BTreeMap<IpNet, BTreeSet<Group>>,
    pairs: HashSet<(Group, Group)>,
}

impl Groups {
    /// Returns the group of what is in these subnets. What is in none shares nothing, not even with its like.
    pub fn of(&mut self, subnets: &BTreeSet<IpNet>) -> Group {
        if let Some(group) = self.numbers.get(subnets) {
            return *group;
        }
        // Four thousand million sets of subnets are more than there is memory for.
        let group = Group(u32::try_from(self.numbers.len()).unwrap_or(u32::MAX));
        self.numbers.insert(subnets.clone(), group);
        for subnet in subnets {
            let others = self.by_subnet.entry(*subnet).or_default();
            others.insert(group);
            self.pairs.extend(others.iter().flat_map(|other| [(group, *other), (*other, group)]));
        }
        group
    }

    /// Tells whether two groups have a subnet in common.
    #[must_use]
    pub fn share(&self, one: Group, other: Group) -> bool {
        self.pairs.contains(&(one, other))
    }

    /// Lists the groups that have a subnet in common, both ways round.
    pub fn pairs(&self) -> impl Iterator<Item = (Group, Group)> + '_ {
        self.pairs.iter().copied()
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
        assert_eq!(groups.pairs().count(), 7);
    }

    #[test]
    fn nested_subnets_are_different_ones() {
        let mut groups = Groups::default();
        let [wide, narrow] = [["10.32.0.1/12"], ["10.32.2.1/24"]].map(|texts| groups.of(&set(&texts)));
        assert!(!groups.share(wide, narrow));
    }
}
