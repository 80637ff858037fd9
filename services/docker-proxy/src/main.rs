//! Attaches containers by relaying the Docker API.

use std::process::ExitCode;

use weft_docker_proxy::{config::Config, weave_api::template};
use weft_proto::client::Service;

fn main() -> ExitCode {
    if template::is_renderer() {
        return template::renderer();
    }
    let config: Config = weft_service::parse();
    let common = config.common.clone();
    weft_service::main(Service::DockerProxy, &common, |shutdown| weft_docker_proxy::run(config, shutdown))
}
