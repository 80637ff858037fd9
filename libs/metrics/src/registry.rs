//! What is counted as it happens, and the whole of what a service shows.

use async_trait::async_trait;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

use crate::{Family, Kind, MetricFamily, Sheet, exposition, process, shared};

static METADATA: Metadata<'static> = Metadata::new("weft", Level::INFO, None);

/// Holds the counters and histograms of one service; its handles count.
///
/// It is no global, so that several services may run in one process.
#[derive(Debug)]
pub struct Registry {
    service: &'static str,
    version: &'static str,
    recorder: PrometheusRecorder,
}

impl Registry {
    /// Makes one for these metrics of a service, beside those that all have.
    #[must_use]
    pub fn new(service: &'static str, version: &'static str, families: &[Family]) -> Self {
        let families = || families.iter().chain(shared::FAMILIES);
        let mut builder = PrometheusBuilder::new();
        for family in families().filter(|family| family.kind == Kind::Histogram) {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(family.name.into()), family.buckets)
                .expect("histograms are defined with buckets");
        }
        let recorder = builder.build_recorder();
        for family in families() {
            let (name, help) = (KeyName::from_const_str(family.name), family.help.into());
            match family.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram => recorder.describe_histogram(name, None, help),
            }
        }
        Self { service, version, recorder }
    }

    /// Returns the service's name.
    #[must_use]
    pub const fn service(&self) -> &'static str {
        self.service
    }

    /// Returns a counter of a family, which shows as 0 from now on. Labels come in the order of the definition.
    pub fn counter(&self, family: &Family, labels: &[&str]) -> Counter {
        self.recorder.register_counter(&key(family, labels), &METADATA)
    }

    /// Returns a gauge of a family, which shows as 0 from now on. Labels come in the order of the definition.
    pub fn gauge(&self, family: &Family, labels: &[&str]) -> Gauge {
        self.recorder.register_gauge(&key(family, labels), &METADATA)
    }

    /// Returns a histogram of a family. Labels come in the order of the definition.
    pub fn histogram(&self, family: &Family, labels: &[&str]) -> Histogram {
        self.recorder.register_histogram(&key(family, labels), &METADATA)
    }
}

fn key(family: &Family, values: &[&str]) -> Key {
    debug_assert_eq!(family.labels.len(), values.len(), "{} has other labels", family.name);
    let labels = family.labels.iter().zip(values);
    Key::from_parts(
        family.name,
        labels.map(|(label, value)| Label::new(label.name, (*value).to_owned())).collect::<Vec<_>>(),
    )
}

/// Knows what a service shows beside what it counts.
#[async_trait]
pub trait Collect: Send + Sync + 'static {
    /// Writes all that is known now.
    async fn collect(&self, sheet: &mut Sheet);
}

/// Everything that a service shows.
pub struct Exposition {
    registry: Registry,
    collector: Box<dyn Collect>,
}

impl std::fmt::Debug for Exposition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exposition").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Exposition {
    /// Joins what is counted with what is collected.
    pub fn new(registry: Registry, collector: impl Collect) -> Self {
        Self { registry, collector: Box::new(collector) }
    }

    /// Renders everything, with figures of the process.
    pub async fn render(&self) -> Vec<MetricFamily> {
        let Registry { service, version, recorder } = &self.registry;
        let mut sheet = Sheet::new(service);
        sheet.set(&shared::BUILD_INFO, &[service, version], 1.0);
        process::collect(&mut sheet, service);
        self.collector.collect(&mut sheet).await;
        let mut families = sheet.into_families();
        families.extend(exposition::split(&recorder.handle().render()));
        families
    }

    /// Returns what is counted in.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Sorts observations into buckets. To be called every few seconds: until then each takes memory.
    pub fn upkeep(&self) {
        self.registry.recorder.handle().run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::{Label as Named, Unit, merge, testing};

    const CALLS: Family =
        Family::counter("weft_test_calls_total", Unit::Count, "Calls.").by(&[Named::new("kind", "kinds")]);
    const WAITS: Family = Family::histogram("weft_test_wait_seconds", Unit::Seconds, &[0.1, 1.0], "Waits.")
        .by(&[Named::new("kind", "k")]);
    const LEVEL: Family = Family::gauge("weft_test_level", Unit::Count, "Level.");

    struct Nothing;

    #[async_trait]
    impl Collect for Nothing {
        async fn collect(&self, sheet: &mut Sheet) {
            sheet.set(&LEVEL, &[], 5.0);
            sheet.problems([]);
        }
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it waits for something"),
        }
    }

    #[test]
    fn what_is_counted_and_what_is_known_is_rendered_together() {
        let registry = Registry::new("test", "1.2.3", &[CALLS, WAITS, LEVEL]);
        let (read, write) = (registry.counter(&CALLS, &["read"]), registry.counter(&CALLS, &["write"]));
        let wait = registry.histogram(&WAITS, &["read"]);
        let exposition = Exposition::new(registry, Nothing);
        read.increment(2);
        wait.record(0.05);
        exposition.upkeep();
        wait.record(7.0);
        let text = merge([now(exposition.render())]);
        for line in [
            "# HELP weft_test_calls_total Calls.",
            "# TYPE weft_test_wait_seconds histogram",
            "weft_test_calls_total{kind=\"read\"} 2",
            "weft_test_calls_total{kind=\"write\"} 0",
            "weft_test_wait_seconds_bucket{kind=\"read\",le=\"0.1\"} 1",
            "weft_test_wait_seconds_bucket{kind=\"read\",le=\"1\"} 1",
            "weft_test_wait_seconds_bucket{kind=\"read\",le=\"+Inf\"} 2",
            "weft_test_wait_seconds_sum{kind=\"read\"} 7.05",
            "weft_test_wait_seconds_count{kind=\"read\"} 2",
            "weft_test_level 5",
            "weft_build_info{service=\"test\",version=\"1.2.3\"} 1",
            "weft_problems{service=\"test\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        drop(write);
        let scrape = testing::read(&text).expect("well-formed");
        assert_eq!(scrape.missing(&[CALLS, WAITS, LEVEL]), Vec::<&str>::new());
        assert!(scrape.sum("process_resident_memory_bytes", &[("service", "test")]) > 1e5);
        assert!(scrape.sum("process_start_time_seconds", &[]) > 1.5e9);
        assert!(scrape.sum("process_open_fds", &[]) > 2.0);
    }
}
