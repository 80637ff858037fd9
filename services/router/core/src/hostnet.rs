//! What the host's network should look like.
