//! What the engine says about a container's health.

/// Tells whether a health status (`healthy`, `unhealthy`, `starting`, `none`) means that the container must not be
/// answered for while another one can be. A container that is still starting counts as healthy.
#[must_use]
pub fn is_unhealthy(status: &str) -> bool {
    status.trim() == "unhealthy"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unhealthy_is_unhealthy() {
        assert!(is_unhealthy("unhealthy"));
        assert!(is_unhealthy(" unhealthy"));
        for status in ["healthy", "starting", "none", "", "Unhealthy?"] {
            assert!(!is_unhealthy(status), "{status}");
        }
    }
}
