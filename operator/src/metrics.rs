//! The operator's metrics.
use crate::crd::status::Phase;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PhaseLabel {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: &'static str,
}

/// Metrics by value: tests do not share them.
pub struct Metrics {
    registry: Registry,
    pub reconciliations: Counter,
    pub errors: Family<ReasonLabel, Counter>,
    pub duration: Histogram,
    pub pods_replaced: Counter,
    pub leader: Gauge,
    jobs: Family<PhaseLabel, Gauge>,
    phases: Mutex<HashMap<String, Phase>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("weir_operator");
        let m = Self {
            reconciliations: Counter::default(),
            errors: Family::default(),
            duration: Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
            pods_replaced: Counter::default(),
            leader: Gauge::default(),
            jobs: Family::default(),
            phases: Mutex::default(),
            registry: Registry::default(),
        };
        registry.register("reconciliations", "Reconciliations", m.reconciliations.clone());
        registry.register("errors", "Reconciliations that failed, by reason", m.errors.clone());
        registry.register("reconcile_duration_seconds", "Time of a reconciliation", m.duration.clone());
        registry.register("pods_replaced", "Pods deleted so that a fresh one starts at once", m.pods_replaced.clone());
        registry.register("leader", "1 while this process holds the lease", m.leader.clone());
        registry.register("jobs", "StreamJobs by phase", m.jobs.clone());
        Self { registry, ..m }
    }
}

impl Metrics {
    /// Counts a job under its phase; `None` when it is gone.
    pub fn phase(&self, job: &str, phase: Option<Phase>) {
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match phase {
            Some(p) => phases.insert(job.into(), p),
            None => phases.remove(job),
        };
        if before == phase {
            return;
        }
        let gauge = |p: Phase| self.jobs.get_or_create(&PhaseLabel { phase: p.as_str() }).clone();
        if let Some(p) = before {
            gauge(p).dec();
        }
        if let Some(p) = phase {
            gauge(p).inc();
        }
    }

    /// OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // writing to a String cannot fail
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_counts_under_one_phase() {
        let m = Metrics::default();
        m.phase("a", Some(Phase::Deploying));
        m.phase("a", Some(Phase::Running));
        m.phase("a", Some(Phase::Running));
        m.phase("b", Some(Phase::Running));
        m.phase("b", None);
        let text = m.text();
        assert!(text.contains("weir_operator_jobs{phase=\"Deploying\"} 0"), "{text}");
        assert!(text.contains("weir_operator_jobs{phase=\"Running\"} 1"), "{text}");
    }
}
