//! Joins hosts into a mesh and carries the containers' frames over it, sealed.

use std::process::ExitCode;

use weft_proto::client::Service;
use weft_router::config::Options;

fn main() -> ExitCode {
    let options: Options = weft_service::parse();
    let common = options.common.clone();
    if options.remove {
        return weft_service::once(Service::Router, &common, weft_router::remove(options));
    }
    weft_service::main(Service::Router, &common, |shutdown| weft_router::run(options, shutdown))
}
