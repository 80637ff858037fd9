//! Rules of ours in the chains `FORWARD` of others, and where they stand there.

use ipnet::IpNet;

use super::{
    ALIAS, Comparison, EXPOSE_COMMENT, Expression, MetaKey, PUBLISH_TABLE, Rule, Verdict,
    expose::{End, accept, address_of, in_subnet, link},
};

/// The chain for what the engine's users decide.
const USERS_CHAIN: &str = "DOCKER-USER";

/// With what the names of the engine's chains begin.
const ENGINES_CHAINS: &str = "DOCKER";

/// Has the host route some packets where the policy of others is to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardRule {
    /// Which address of a packet has to be in the subnet.
    pub(super) end: End,
    pub(super) subnet: IpNet,
    /// Name of the link that it comes by, or, if not equal, of the one that it does not come by.
    pub(super) by: (Comparison, String),
    /// The same for the link that it leaves by.
    pub(super) out: (Comparison, String),
    /// Whether only what belongs to connections that exist may pass.
    pub(super) answers: bool,
    /// What marks it as ours.
    pub(super) comment: &'static str,
}

impl ForwardRule {
    /// Returns it as the iptables tools write it by nftables.
    #[must_use]
    pub fn rule(&self) -> Rule {
        let on = |key, (comparison, name): &(Comparison, String)| link(key, *comparison == Comparison::Equal, name);
        let parts = [
            address_of(self.end, &self.subnet),
            in_subnet(&self.subnet, true),
            on(MetaKey::InterfaceIn, &self.by),
            on(MetaKey::InterfaceOut, &self.out),
        ];
        let answers = self.answers.then(answers_as_iptables);
        let expressions = parts.concat().into_iter().chain(answers).chain([Expression::Counter, accept()]).collect();
        Rule { expressions, comment: Some(self.comment.into()) }
    }

    /// Returns it as `iptables -S` prints it behind the name of the chain.
    #[must_use]
    pub fn specification(&self) -> String {
        let Self { end, subnet, by, out, answers, comment } = self;
        let end = if matches!(end, End::Source) { "-s" } else { "-d" };
        let not = |comparison: Comparison| if comparison == Comparison::Equal { "" } else { "! " };
        let answers = if *answers { " -m conntrack --ctstate RELATED,ESTABLISHED" } else { "" };
        let (not_by, not_out, by, out) = (not(by.0), not(out.0), &by.1, &out.1);
        format!("{end} {subnet} {not_by}-i {by} {not_out}-o {out}{answers} -m comment --comment {comment} -j ACCEPT")
    }
}

/// Passes established and related connections in the only form that the iptables tools understand: `-m conntrack --ctstate
/// RELATED,ESTABLISHED` (`struct xt_conntrack_mtinfo3`, linux/netfilter/xt_conntrack.h).
fn answers_as_iptables() -> Expression {
    /// Of the structure, aligned to eight bytes.
    const LENGTH: usize = 168;
    const FLAGS: usize = 146;
    const STATES: usize = 150;
    const BY_STATE: u16 = 1;
    const ESTABLISHED_OR_RELATED: u16 = 2 | 4;
    let mut info = vec![0; LENGTH];
    for (at, value) in [(FLAGS, BY_STATE), (STATES, ESTABLISHED_OR_RELATED)] {
        info[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
    Expression::Match { name: "conntrack".into(), revision: 3, info }
}

/// What has to change in a chain for rules of ours to be in it, and to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Handles of rules that go.
    pub delete: Vec<u64>,
    /// Handle of the rule that the wanted ones come directly after; without it they come first.
    pub after: Option<u64>,
}

/// Returns what has to change for a chain to have exactly the `wanted` rules of those with this comment, each after the other, where
/// they belong; nothing if it has. `present` is all that is in the chain.
///
/// They come behind the jumps to the engine's chains, so that what its users drop in `DOCKER-USER`, and what it drops itself, stays
/// dropped; and before all else, as the rule by which many hosts refuse what nobody accepted. Whoever puts a rule before the engine's
/// jumps decides before us, as before the engine. Rules that accept may stand wherever they like.
#[must_use]
pub fn place(present: &[(u64, Rule)], comment: &str, wanted: &[Rule]) -> Option<Placement> {
    let users = present.iter().position(|(_, rule)| jumps_to(rule, |chain| chain == USERS_CHAIN)).unwrap_or(0);
    let is_engines = |rule: &Rule| jumps_to(rule, |chain| chain.starts_with(ENGINES_CHAINS));
    let engines = present.iter().enumerate().skip(users).take_while(|(_, (_, rule))| is_engines(rule) || passes(rule));
    let last = engines.filter(|(_, (_, rule))| is_engines(rule)).last().map(|(at, _)| at);

    let own = |(_, rule): &&(u64, Rule)| rule.comment.as_deref() == Some(comment);
    let counting = present.iter().skip(last.map_or(0, |at| at + 1)).take_while(|(_, rule)| passes(rule)).filter(own);
    let own: Vec<u64> = present.iter().filter(own).map(|(handle, _)| *handle).collect();
    let is_right = own.len() == wanted.len() && counting.map(|(_, rule)| rule).eq(wanted);
    let after = last.and_then(|at| present.get(at)).map(|(handle, _)| *handle);
    (!is_right).then_some(Placement { delete: own, after })
}

fn jumps_to(rule: &Rule, named: impl Fn(&str) -> bool) -> bool {
    matches!(rule.expressions.last(), Some(Expression::Jump(chain)) if named(chain))
}

/// Tells whether a rule keeps nothing from those behind it but what it accepts.
fn passes(rule: &Rule) -> bool {
    let ours = [ALIAS, EXPOSE_COMMENT, PUBLISH_TABLE];
    rule.comment.as_deref().is_some_and(|comment| ours.contains(&comment))
        || rule.expressions.last() == Some(&Expression::Verdict(Verdict::Accept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(last: Expression, comment: Option<&str>) -> Rule {
        Rule { expressions: vec![Expression::Counter, last], comment: comment.map(str::to_owned) }
    }

    fn accept(comment: &str) -> Rule {
        rule(Expression::Verdict(Verdict::Accept), Some(comment))
    }

    /// Makes rules of words: `>CHAIN` jumps, `+` accepts, `weft…` is ours, anything else is somebody's with an unknown end. Handles
    /// count from 1.
    fn chain(text: &str) -> Vec<(u64, Rule)> {
        let rules = text.split_whitespace().map(|word| match word {
            "+" => rule(Expression::Verdict(Verdict::Accept), None),
            _ if word.starts_with("weft") => accept(word),
            _ => match word.strip_prefix('>') {
                Some(chain) => rule(Expression::Jump(chain.into()), None),
                None => rule(Expression::Other(word.into()), None),
            },
        });
        (1..).zip(rules).collect()
    }

    #[test]
    fn ours_come_behind_the_engines_jumps_and_before_whatever_may_drop() {
        let wanted = [accept(EXPOSE_COMMENT)];
        let placed = |delete: &[u64], after| Some(Placement { delete: delete.into(), after });
        for (present, expected) in [
            ("", placed(&[], None)),
            ("weft-expose", None),
            ("weft weft-publish + weft-expose reject", None),
            ("reject weft-expose", placed(&[2], None)),
            ("reject", placed(&[], None)),
            ("weft-expose weft-expose", placed(&[1, 2], None)),
            ("weft >DOCKER-USER >DOCKER-FORWARD weft-expose", None),
            ("weft >DOCKER-USER >DOCKER-FORWARD reject weft-expose", placed(&[5], Some(3))),
            ("weft-expose >DOCKER-USER >DOCKER-FORWARD", placed(&[1], Some(3))),
            (">DOCKER-USER >DOCKER-ISOLATION-STAGE-1 + >DOCKER + + weft-publish weft-expose >ufw drop", None),
            (">DOCKER-USER weft-expose >DOCKER-ISOLATION-STAGE-1 + >DOCKER + +", placed(&[2], Some(5))),
            // What stands before the engine's jumps was put there to decide first.
            ("drop >DOCKER-USER >DOCKER-FORWARD weft-expose", None),
            // The engine itself is cut off: we are not.
            (">DOCKER-USER reject >DOCKER-FORWARD weft-expose", placed(&[4], Some(1))),
            (">ufw weft-expose", placed(&[2], None)),
        ] {
            assert_eq!(place(&chain(present), EXPOSE_COMMENT, &wanted), expected, "{present}");
        }
        assert_eq!(place(&chain("reject"), EXPOSE_COMMENT, &[]), None);
        assert_eq!(place(&chain("reject weft-expose"), EXPOSE_COMMENT, &[]), placed(&[2], None));
    }
}
