//! The accept rule where the host filters with legacy xtables, in the terms of its `iptables`.

use super::ALIAS;

/// Returns the arguments that insert the rule which accepts frames that enter and leave by the bridge, if the chains that
/// bridged frames pass could drop them and do not have it. `listing` is what `iptables -S` prints.
#[must_use]
pub fn legacy_accept(listing: &str, bridge: &str) -> Option<Vec<String>> {
    let rule = format!("-i {bridge} -o {bridge} -m comment --comment {ALIAS} -j ACCEPT");
    let lines = || listing.lines().map(str::trim);
    let drops = lines().any(|line| line == "-P FORWARD DROP" || line.starts_with("-A FORWARD "));
    let accepts =
        lines().any(|line| ["DOCKER-USER", "FORWARD"].iter().any(|chain| line == format!("-A {chain} {rule}")));
    if !drops || accepts {
        return None;
    }
    let chain = if lines().any(|line| line == "-N DOCKER-USER") { "DOCKER-USER" } else { "FORWARD" };
    Some(words(&format!("-I {chain} {rule}")))
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
        let accept = |listing: &str| legacy_accept(listing, "weft").map(|words| words.join(" "));
        assert_eq!(accept(""), None);
        assert_eq!(accept("-P INPUT DROP\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n"), None);
        assert_eq!(accept("-P FORWARD DROP\n"), Some(format!("-I FORWARD {RULE}")));
        let engine = "-P FORWARD ACCEPT\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n";
        assert_eq!(accept(engine), Some(format!("-I DOCKER-USER {RULE}")));
        for chain in ["DOCKER-USER", "FORWARD"] {
            assert_eq!(accept(&format!("{engine}-A {chain} {RULE}\n")), None);
        }
        let other = RULE.replace("weft -o", "br0 -o");
        assert_eq!(accept(&format!("{engine}-A DOCKER-USER {other}\n")), Some(format!("-I DOCKER-USER {RULE}")));
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
