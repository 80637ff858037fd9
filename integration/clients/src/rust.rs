//! Raw.
use crate::outcome::Outcome;
use std::path::Path;
pub(crate) async fn drive(_socket: &Path) -> anyhow::Result<Vec<Outcome>> {
    Ok(vec![Outcome::new("version", "HTTP/1.1")])
}
