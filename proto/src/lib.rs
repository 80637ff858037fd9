//! The contracts between weft's services, and between peers, and nothing else.
//!
//! One module for each package of `proto/weft`. [`convert`] turns messages into the types of `weft-types` and back;
//! [`client`] connects to a service. Generated types go no further than a service's `api.rs` and its clients.

#![forbid(unsafe_code)]

pub mod client;
pub mod convert;

/// Types that several contracts use.
pub mod common {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
    pub mod v1 {
        include!("generated/weft.common.v1.rs");
    }
}

/// What peers say to each other.
pub mod mesh {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
    pub mod v1 {
        include!("generated/weft.mesh.v1.rs");
    }
}

/// What the router offers on its socket.
pub mod router {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
    pub mod v1 {
        include!("generated/weft.router.v1.rs");
    }
}

/// What ipam offers on its socket.
pub mod ipam {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
    pub mod v1 {
        include!("generated/weft.ipam.v1.rs");
    }
}

/// What dns offers on its socket.
pub mod dns {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
    pub mod v1 {
        include!("generated/weft.dns.v1.rs");
    }
}

/// What docker-proxy offers on its socket.
pub mod proxy {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
    pub mod v1 {
        include!("generated/weft.proxy.v1.rs");
    }
}
