//! Docker hosts as network namespaces, for tests, demo and benchmarks.
