//! Answers the names of all containers of the mesh.

use std::process::ExitCode;

use weft_dns::Config;
use weft_proto::client::Service;

fn main() -> ExitCode {
    let config = Config::read();
    let common = config.common.clone();
    weft_service::main(Service::Dns, &common, |shutdown| weft_dns::run(config, shutdown))
}
