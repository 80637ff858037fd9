//! Rules of ours where the host filters with legacy xtables, in the terms of its `iptables`.

use super::{ACCEPTING_CHAINS, ALIAS, EXPOSE_COMMENT, Expression, ForwardRule, PUBLISH_TABLE, Rule, Verdict, place};

/// Returns the arguments that insert, into each chain which lacks it, the rule that accepts frames which enter and leave by the
/// bridge, if the chains that bridged frames pass could drop them. `listing` is what `iptables -S` prints.
#[must_use]
pub fn legacy_accept(listing: &str, bridge: &str) -> Vec<Vec<String>> {
    let rule = format!("-i {bridge} -o {bridge} -m comment --comment {ALIAS} -j ACCEPT");
    let lines = || listing.lines().map(str::trim);
    if !may_drop(listing) {
        return Vec::new();
    }
    let exists = |chain: &&str| lines().any(|line| *chain == "FORWARD" || line == format!("-N {chain}"));
    let accepts = |chain: &&str| lines().any(|line| line == format!("-A {chain} {rule}"));
    let lacking = ACCEPTING_CHAINS.into_iter().filter(exists).filter(|chain| !accepts(chain));
    lacking.map(|chain| words(&format!("-I {chain} {rule}"))).collect()
}

/// Returns the arguments that make the chain `FORWARD` have exactly the `wanted` rules of those with this comment, where they belong
/// ([`place`]), if what the host routes could be dropped there. `listing` is what `iptables -S` prints.
#[must_use]
pub fn legacy_forward(listing: &str, comment: &str, wanted: &[ForwardRule]) -> Vec<Vec<String>> {
    let wanted: Vec<String> = wanted.iter().map(ForwardRule::specification).filter(|_| may_drop(listing)).collect();
    let present: Vec<&str> = listing.lines().filter_map(|line| line.trim().strip_prefix("-A FORWARD ")).collect();
    let rules: Vec<(u64, Rule)> = (1..).zip(present.iter().map(|line| read(line))).collect();
    let as_read: Vec<Rule> = wanted.iter().map(|line| read(line)).collect();
    let Some(placement) = place(&rules, comment, &as_read) else { return Vec::new() };
    let deleted = (1..).zip(&present).filter(|(number, _)| placement.delete.contains(number));
    let stay = (1..=placement.after.unwrap_or(0)).filter(|number| !placement.delete.contains(number));
    let first = stay.count() + 1;
    let inserts = (first..).zip(&wanted).map(|(number, rule)| words(&format!("-I FORWARD {number} {rule}")));
    deleted.map(|(_, rule)| words(&format!("-D FORWARD {rule}"))).chain(inserts).collect()
}

/// Tells whether the chains that routed packets and bridged frames pass could drop them.
fn may_drop(listing: &str) -> bool {
    listing.lines().map(str::trim).any(|line| line == "-P FORWARD DROP" || line.starts_with("-A FORWARD "))
}

/// Reads a rule as far as its place depends on it; all else is one expression.
fn read(specification: &str) -> Rule {
    let words: Vec<&str> = specification.split_ascii_whitespace().collect();
    let behind = |word: &str| words.iter().position(|one| *one == word).and_then(|at| words.get(at + 1)).copied();
    let end = match behind("-j") {
        Some("ACCEPT") => Expression::Verdict(Verdict::Accept),
        Some(target) => Expression::Jump(target.into()),
        None => Expression::Counter,
    };
    let comment = behind("--comment").map(str::to_owned);
    Rule { expressions: vec![Expression::Other(words.join(" ")), end], comment }
}

/// Returns the arguments that delete each rule of ours.
#[must_use]
pub fn legacy_removals(listing: &str) -> Vec<Vec<String>> {
    let ours = |line: &&str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let comments = words.windows(2).filter(|pair| pair.first() == Some(&"--comment"));
        comments.flat_map(|pair| pair.get(1)).any(|comment| [ALIAS, EXPOSE_COMMENT, PUBLISH_TABLE].contains(comment))
    };
    let rules = listing.lines().filter_map(|line| line.trim().strip_prefix("-A "));
    rules.filter(ours).map(|rule| words(&format!("-D {rule}"))).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "-i weft -o weft -m comment --comment weft -j ACCEPT";

    #[test]
    fn frames_are_accepted_where_they_could_be_dropped() {
        let accept = |listing: &str| -> Vec<String> {
            legacy_accept(listing, "weft").iter().map(|words| words.join(" ")).collect()
        };
        let into = |chain: &str| format!("-I {chain} {RULE}");
        assert_eq!(accept(""), [""; 0]);
        assert_eq!(accept("-P INPUT DROP\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n"), [""; 0]);
        assert_eq!(accept("-P FORWARD DROP\n"), [into("FORWARD")]);
        let engine = "-P FORWARD ACCEPT\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n";
        assert_eq!(accept(engine), [into("DOCKER-USER"), into("FORWARD")]);
        let in_user = format!("{engine}-A DOCKER-USER {RULE}\n");
        assert_eq!(accept(&in_user), [into("FORWARD")], "the jump to the other chain may go");
        assert_eq!(accept(&format!("{in_user}-A FORWARD {RULE}\n")), [""; 0]);
        let other = RULE.replace("weft -o", "br0 -o");
        assert_eq!(accept(&format!("-P FORWARD DROP\n-A FORWARD {other}\n")), [into("FORWARD")]);
    }

    #[test]
    fn what_the_host_routes_is_let_pass_behind_the_engines_jumps() {
        use super::super::{Exposure, Family, forward_rules};
        let address = "10.32.0.9/12".parse().expect("valid");
        let wanted = forward_rules(Family::Ipv4, "weft", &[Exposure { address, masquerade: true }]);
        let [from, to] = [
            "-s 10.32.0.0/12 -i weft ! -o weft -m comment --comment weft-expose -j ACCEPT",
            "-d 10.32.0.0/12 ! -i weft -o weft -m comment --comment weft-expose -j ACCEPT",
        ];
        let change = |listing: &str, wanted: &[ForwardRule]| -> Vec<String> {
            legacy_forward(listing, EXPOSE_COMMENT, wanted).iter().map(|words| words.join(" ")).collect()
        };
        assert_eq!(change("-P FORWARD ACCEPT\n", &wanted), [""; 0]);
        let placed = [format!("-I FORWARD 1 {from}"), format!("-I FORWARD 2 {to}")];
        assert_eq!(change("-P FORWARD DROP\n", &wanted), placed);
        assert_eq!(
            change("-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-port-unreachable\n", &wanted),
            placed
        );
        let right = format!("-A FORWARD {from}\n-A FORWARD {to}\n");
        assert_eq!(change(&right, &wanted), [""; 0]);
        let gone = [format!("-D FORWARD {from}"), format!("-D FORWARD {to}")];
        assert_eq!(change(&right, &[]), gone);
        // The engine has put its jumps first meanwhile.
        let engine = "-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n";
        assert_eq!(change(&format!("{engine}{right}-A FORWARD -j DROP\n"), &wanted), [""; 0]);
        let behind = [format!("-I FORWARD 3 {from}"), format!("-I FORWARD 4 {to}")];
        let moved: Vec<String> = gone.iter().chain(&behind).cloned().collect();
        assert_eq!(change(&format!("{right}{engine}"), &wanted), moved);
        assert_eq!(change(&format!("{engine}-A FORWARD -j DROP\n{right}"), &wanted), moved);
    }

    #[test]
    fn rules_of_ours_are_removed_and_no_others() {
        let listing = format!(
            "-P FORWARD DROP\n-A FORWARD {RULE}\n-A DOCKER-USER {RULE}\n-A FORWARD -m comment --comment weftless -j DROP\n\
             -A FORWARD -m comment --comment weft-publish -j ACCEPT\n"
        );
        let removals: Vec<String> = legacy_removals(&listing).iter().map(|words| words.join(" ")).collect();
        let published = "-D FORWARD -m comment --comment weft-publish -j ACCEPT".to_owned();
        assert_eq!(removals, [format!("-D FORWARD {RULE}"), format!("-D DOCKER-USER {RULE}"), published]);
    }
}
