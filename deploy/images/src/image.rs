//! Which images there are, and what is in them.

/// One image: files at its root and the one that is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Image {
    /// Repository, without tag.
    pub(crate) name: &'static str,
    /// Binaries, by their file name in the build folder and in the image; the first is the entrypoint.
    pub(crate) binaries: &'static [&'static str],
    /// One sentence for `docker inspect`.
    pub(crate) description: &'static str,
    /// Whether the entrypoint answers `--health`.
    pub(crate) service: bool,
}

/// All images, in the order in which their containers start.
pub(crate) const IMAGES: &[Image] = &[
    Image {
        name: "weft/router",
        binaries: &["weft-router"],
        description: "Joins hosts into a mesh and carries the containers' frames over it, sealed",
        service: true,
    },
    Image {
        name: "weft/ipam",
        binaries: &["weft-ipam"],
        description: "Owns who has which overlay address",
        service: true,
    },
    Image {
        name: "weft/dns",
        binaries: &["weft-dns"],
        description: "Answers the names of all containers of the mesh",
        service: true,
    },
    Image {
        name: "weft/docker-proxy",
        binaries: &["weft-docker-proxy", "weft-wait"],
        description: "Attaches containers by relaying the Docker API",
        service: true,
    },
    Image { name: "weft/weft", binaries: &["weft"], description: "The weft command", service: false },
];
