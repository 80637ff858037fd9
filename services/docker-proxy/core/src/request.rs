//! The body of `POST /containers/create`.

use crate::{
    eligibility::Network,
    json::{self, MalformedBody, Object},
};

/// What a client asks the engine to create, in the client's own order and with every field it gave.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateRequest {
    body: Object,
    name: Option<String>,
}

impl CreateRequest {
    /// Parses the body of a request for a container with this name, if the client gave one.
    ///
    /// # Errors
    /// [`MalformedBody`] if it is not a JSON object. The proxy answers 400 then, as the engine would.
    pub fn parse(body: &[u8], name: Option<&str>) -> Result<Self, MalformedBody> {
        Ok(Self { body: json::parse_object(body)?, name: name.map(str::to_owned) })
    }

    /// Returns the image's name as given.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        json::text(&self.body, "Image")
    }

    /// Returns the network that the container's first interface is to be in.
    ///
    /// For [`Network::Named`] the shell asks the engine for the network's driver before it calls
    /// [`crate::eligibility::of_request`].
    #[must_use]
    pub fn network(&self) -> Network {
        Network::of(json::object(&self.body, "HostConfig"))
    }

    /// Returns the name that the client gave the container.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the body.
    pub(crate) const fn body(&self) -> &Object {
        &self.body
    }
}
