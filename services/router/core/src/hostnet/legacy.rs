//! The accept rule where the host filters with legacy xtables, in the terms of its `iptables`.

use super::{ACCEPTING_CHAINS, ALIAS};

/// Returns the arguments that insert, into each chain which lacks it, the rule that accepts frames which enter and leave by the
/// bridge, if the chains that bridged frames pass could drop them. `listing` is what `iptables -S` prints.
#[must_use]
pub fn legacy_accept(listing: &str, bridge: &str) -> Vec<Vec<String>> {
    let rule = format!("-i {bridge} -o {bridge} -m comment --comment {ALIAS} -j ACCEPT");
    let lines = || listing.lines().map(str::trim);
    let drops = lines().any(|line| line == "-P FORWARD DROP" || line.starts_with("-A FORWARD "));
    if !drops {
        return Vec::new();
    }
    let exists = |chain: &&str| lines().any(|line| *chain == "FORWARD" || line == format!("-N {chain}"));
    let accepts = |chain: &&str| lines().any(|line| line == format!("-A {chain} {rule}"));
    let lacking = ACCEPTING_CHAINS.into_iter().filter(exists).filter(|chain| !accepts(chain));
    lacking.map(|chain| words(&format!("-I {chain} {rule}"))).collect()
}

/// Returns the arguments that delete each rule of ours.
#[must_use]
pub fn legacy_removals(listing: &str) -> Vec<Vec<String>> {
    let ours = |line: &&str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.windows(2).any(|pair| pair == ["--comment", ALIAS])
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
    fn rules_of_ours_are_removed_and_no_others() {
        let listing = format!(
            "-P FORWARD DROP\n-A FORWARD {RULE}\n-A DOCKER-USER {RULE}\n-A FORWARD -m comment --comment weftless -j DROP\n"
        );
        let removals: Vec<String> = legacy_removals(&listing).iter().map(|words| words.join(" ")).collect();
        assert_eq!(removals, [format!("-D FORWARD {RULE}"), format!("-D DOCKER-USER {RULE}")]);
    }
}
