//! Leader election by a Lease: a pure decision, and the loop around it. Losing the lease ends the process.
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::time::{Duration, Instant};

/// What a contender knows of the lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub holder: String,
    /// Time by its own clock for which the record has not changed: clocks of others are not trusted.
    pub unchanged: Duration,
    /// How long the holder promised to renew within.
    pub duration: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Create,
    Take,
    Renew,
    Wait,
}

/// Pure: what a contender does.
pub fn decide(me: &str, seen: Option<&Seen>) -> Decision {
    match seen {
        None => Decision::Create,
        Some(s) if s.holder == me => Decision::Renew,
        Some(s) if s.holder.is_empty() || s.unchanged >= s.duration => Decision::Take,
        Some(_) => Decision::Wait,
    }
}

/// The lease of this deployment.
pub struct Election {
    api: Api<Lease>,
    name: String,
    me: String,
    duration: Duration,
    /// The record last seen, and when it was first seen like this.
    last: Option<(String, Instant)>,
}

impl Election {
    pub fn new(client: Client, namespace: &str, name: String, me: String, duration: Duration) -> Self {
        Self { api: Api::namespaced(client, namespace), name, me, duration, last: None }
    }

    /// Returns when this process leads.
    pub async fn acquire(&mut self) {
        loop {
            match tokio::time::timeout(self.duration / 3, self.step()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(e)) => tracing::warn!(error = %e, "lease not read or written"),
                Err(_) => tracing::warn!("lease not read or written in time"),
            }
            tokio::time::sleep(self.duration / 5).await;
        }
    }

    /// Renews; returns when the lease is lost.
    pub async fn keep(&mut self) {
        let mut renewed = Instant::now();
        // stop before another may take it, who counts from when this one wrote
        let duration = self.duration;
        let left = |renewed: Instant| (duration * 2 / 3).saturating_sub(renewed.elapsed());
        while !left(renewed).is_zero() {
            tokio::time::sleep(left(renewed).min(self.duration / 5)).await;
            let asked = Instant::now();
            let longest = left(renewed).min(self.duration / 3);
            match tokio::time::timeout(longest, self.step()).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => return,
                Ok(Err(e)) => tracing::warn!(error = %e, "lease not renewed"),
                Err(_) => tracing::warn!("lease not renewed in time"),
            }
        }
    }

    /// Hands the lease over at once.
    pub async fn release(&mut self) {
        if let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await
            && let Some(spec) = lease.spec.as_mut()
            && spec.holder_identity.as_deref() == Some(&self.me)
        {
            spec.holder_identity = Some(String::new());
            let _ = self.api.replace(&self.name, &PostParams::default(), &lease).await;
        }
    }

    /// One look; true when this process holds the lease after it.
    async fn step(&mut self) -> Result<bool, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let seen = lease.as_ref().map(|l| self.see(l));
        let decision = decide(&self.me, seen.as_ref());
        let written = match (decision, lease) {
            (Decision::Wait, _) => return Ok(false),
            (Decision::Create, _) | (_, None) => self.api.create(&PostParams::default(), &self.record(None)).await,
            // the resource version in the record makes a write by another since then a conflict
            (_, Some(l)) => self.api.replace(&self.name, &PostParams::default(), &self.record(Some(l))).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(s)) if s.code == 409 => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn see(&mut self, lease: &Lease) -> Seen {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let spec = lease.spec.clone().unwrap_or_default();
        let since = match &self.last {
            Some((v, since)) if *v == version => *since,
            _ => Instant::now(),
        };
        self.last = Some((version, since));
        Seen {
            holder: spec.holder_identity.unwrap_or_default(),
            unchanged: since.elapsed(),
            duration: spec
                .lease_duration_seconds
                .and_then(|s| u64::try_from(s).ok())
                .map_or(self.duration, Duration::from_secs),
        }
    }

    fn record(&self, old: Option<Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let old_spec = old.as_ref().and_then(|l| l.spec.clone()).unwrap_or_default();
        let same = old_spec.holder_identity.as_deref() == Some(&self.me);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: old.and_then(|l| l.metadata.resource_version),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX)),
                acquire_time: if same { old_spec.acquire_time } else { Some(now.clone()) },
                renew_time: Some(now),
                lease_transitions: Some(old_spec.lease_transitions.unwrap_or(0) + i32::from(!same)),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_only_when_it_is_free_or_was_not_renewed_by_our_own_clock() {
        let seen = |holder: &str, unchanged| Seen {
            holder: holder.into(),
            unchanged: Duration::from_secs(unchanged),
            duration: Duration::from_secs(10),
        };
        assert_eq!(decide("a", None), Decision::Create);
        assert_eq!(decide("a", Some(&seen("a", 99))), Decision::Renew);
        assert_eq!(decide("a", Some(&seen("", 0))), Decision::Take);
        assert_eq!(decide("a", Some(&seen("b", 9))), Decision::Wait);
        assert_eq!(decide("a", Some(&seen("b", 10))), Decision::Take);
    }
}
