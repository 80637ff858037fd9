//! Attaches containers by relaying the Docker API.
