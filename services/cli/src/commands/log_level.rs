//! `log-level`.

use weft_proto::{
    client::Service,
    common::v1::{SetLogLevelRequest, log_service_client::LogServiceClient},
};

use crate::{
    Outcome,
    output::Output,
    report::{LogLevel, LogLevels},
    services::Services,
};

pub(super) async fn log_level(
    only: Option<Service>,
    level: &str,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let mut changed = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    for service in Service::ALL.into_iter().filter(|service| only.is_none_or(|only| only == *service)) {
        let request = SetLogLevelRequest { level: level.to_owned() };
        let call = |channel| async { LogServiceClient::new(channel).set_level(request).await };
        match services.ask(service, call).await {
            Ok(answer) => {
                changed.push(LogLevel { service: service.name(), level: level.to_owned(), previous: answer.previous })
            }
            // All say the same of a level that makes no sense.
            Err(error) if problems.contains(&error.to_string()) => {}
            Err(error) => problems.push(error.to_string()),
        }
    }
    if !changed.is_empty() {
        output.print(&LogLevels { services: changed })?;
    }
    for problem in &problems {
        output.complain(&format!("weft: {problem}"));
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::Failed })
}
