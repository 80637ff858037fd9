//! The only writer of kernel network state: links, addresses, routes, rules, sysctls, files that name a container's
//! network.
