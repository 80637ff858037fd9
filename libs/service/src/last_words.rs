//! The sentence that a service ended with, for `weft status`: a service that is gone cannot be asked.

use std::{fs, path::Path};

use weft_proto::client::Service;

/// Removes what an earlier run left.
pub(crate) fn forget(service: Service, folder: &Path) {
    // It is there after a failure only.
    let _ = fs::remove_file(service.last_words(folder));
}

/// Leaves why the service ends. Where that cannot be written, the log has it all the same.
pub(crate) fn leave(service: Service, folder: &Path, error: &anyhow::Error) {
    let written =
        fs::create_dir_all(folder).and_then(|()| fs::write(service.last_words(folder), format!("{error:#}\n")));
    if let Err(error) = written {
        tracing::debug!(%error, "failed to leave the reason of the end beside the sockets");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_left_and_forgotten() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = Service::Ipam.last_words(folder.path());
        leave(Service::Ipam, folder.path(), &anyhow::anyhow!("low").context("high"));
        assert_eq!(fs::read_to_string(&path).expect("left"), "high: low\n");
        forget(Service::Ipam, folder.path());
        assert!(!path.exists());
    }
}
