//! Decides for ipam: the ring, free space, allocation, claims, ring creation.
