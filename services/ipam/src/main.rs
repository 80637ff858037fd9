//! Owns who has which overlay address.

use std::process::ExitCode;

use weft_ipam::Config;
use weft_proto::client::Service;

fn main() -> ExitCode {
    let config: Config = weft_service::parse();
    let common = config.common.clone();
    weft_service::main(Service::Ipam, &common, |shutdown| weft_ipam::run(config, shutdown))
}
