//! Joins hosts into a mesh and carries the containers' frames over it, sealed.

use std::process::ExitCode;

use weft_proto::client::Service;
use weft_router::config::Config;

fn main() -> ExitCode {
    let config: Config = weft_service::parse();
    let common = config.common.clone();
    if config.remove {
        return weft_service::once(Service::Router, &common, weft_router::remove(config));
    }
    weft_service::main(Service::Router, &common, |shutdown| weft_router::run(config, shutdown))
}
