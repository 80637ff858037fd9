//! What an image gives to the containers made of it.

use crate::json::{self, MalformedBody, Object};

/// The part of an image's configuration that decides how its containers are rewritten.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageConfig {
    config: Object,
}

impl ImageConfig {
    /// Reads the reply to `GET /images/{name}/json`.
    ///
    /// # Errors
    /// [`MalformedBody`] if the reply is not a JSON object. An image without a configuration is an empty one.
    pub fn parse(reply: &[u8]) -> Result<Self, MalformedBody> {
        let reply = json::parse_object(reply)?;
        Ok(Self { config: json::object(&reply, "Config").cloned().unwrap_or_default() })
    }

    /// Returns the configuration as the engine reported it.
    pub(crate) const fn config(&self) -> &Object {
        &self.config
    }
}
