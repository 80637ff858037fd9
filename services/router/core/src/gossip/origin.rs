//! What one origin published.

use super::limits;

/// Returns what an entry counts towards limits, in bytes.
pub(super) fn entry_length(channel: &str, key: &[u8], value: Option<&[u8]>) -> usize {
    channel.len() + key.len() + value.map_or(0, <[u8]>::len) + limits::ENTRY_OVERHEAD
}
