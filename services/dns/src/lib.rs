//! Answers the names of all containers of the mesh.
