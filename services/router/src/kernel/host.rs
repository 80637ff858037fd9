//! Observes the host and applies what has to change.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::bail;
use ipnet::IpNet;
use tokio::sync::watch;
use weft_types::ContainerId;

use super::{AttachError, AttachSpec, Attached, DnsSockets, HostRoute, KernelConfig, ObservedAttachment, Problem};

pub(super) struct Owner {
    config: KernelConfig,
}

impl Owner {
    pub(super) fn open(config: KernelConfig, _: watch::Sender<Option<Arc<DnsSockets>>>) -> anyhow::Result<Self> {
        Ok(Self { config })
    }
    pub(super) fn reconcile(&mut self) -> anyhow::Result<usize> {
        let _ = super::desired(&self.config, None);
        bail!("not to be had yet")
    }
    pub(super) fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
    pub(super) fn attach(&mut self, spec: &AttachSpec) -> Result<Attached, AttachError> {
        Err(AttachError::NoAddress { container: spec.container.clone() })
    }
    pub(super) fn detach(&mut self, _: &ContainerId, _: &[IpNet]) -> anyhow::Result<Vec<IpNet>> {
        bail!("not to be had yet")
    }
    pub(super) fn set_subnets(&mut self, _: BTreeSet<IpNet>) -> anyhow::Result<()> {
        bail!("not to be had yet")
    }
    pub(super) fn host_routes(&mut self) -> anyhow::Result<Vec<HostRoute>> {
        bail!("not to be had yet")
    }
    pub(super) fn attachments(&mut self) -> anyhow::Result<Vec<ObservedAttachment>> {
        bail!("not to be had yet")
    }
    pub(super) fn remove_all(&mut self) -> anyhow::Result<()> {
        bail!("not to be had yet")
    }
}
