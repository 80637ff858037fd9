//! What the engine says about a container's health.

/// Tells whether a health status (`healthy`, `unhealthy`, `starting`, `none`) means that the container must not be
/// answered for while another one can be. A container that is still starting counts as healthy.
#[must_use]
pub fn is_unhealthy(status: &str) -> bool {
    status.trim() == "unhealthy"
}
