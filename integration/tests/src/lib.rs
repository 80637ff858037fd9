//! Scenarios on several lab hosts.
