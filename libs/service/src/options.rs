//! Options that all services have.

use std::path::PathBuf;

use weft_proto::client::SOCKET_FOLDER;

use crate::LogFormat;

/// Options that all services have; flatten into a service's own.
#[derive(Debug, Clone, clap::Args)]
pub struct CommonOptions {
    /// Folder of the services' Unix sockets. All services and the command must agree on it.
    #[arg(long, env = "WEFT_SOCKET_FOLDER", value_name = "PATH", default_value = SOCKET_FOLDER)]
    pub socket_folder: PathBuf,

    /// What is logged: error, warn, info, debug, trace, or directives as in "info,weft_router=debug".
    #[arg(long, env = "WEFT_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// How log lines look.
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Ask the running service whether it is ready, say so by the exit code, and do nothing else.
    #[arg(long)]
    pub health: bool,
}
