//! Owns who has which overlay address.
