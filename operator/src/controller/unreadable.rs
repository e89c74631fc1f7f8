//! A look at a StreamJob that does not parse: the shell around `reconcile::unreadable`.
use super::{Context, Error, FINALIZER, RESYNC, delay_until, write_error};
use crate::build::FIELD_MANAGER;
use crate::children::JobKey;
use crate::clock;
use crate::crd::StreamJobStatus;
use crate::crd::conditions::merge;
use crate::metrics::ReasonLabel;
use crate::reconcile::apply::Applier;
use crate::reconcile::plan::{Action, Note};
use crate::reconcile::unreadable::{self, REASON};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action as Requeue;
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::{Value, json};

impl Context {
    /// Names it, and deletes it where that was asked for. What runs is looked after: its pods can be read.
    pub(super) async fn look_unread(
        &self,
        key: &JobKey,
        api: &Api<DynamicObject>,
        job: DynamicObject,
        why: &str,
    ) -> Result<Requeue, Error> {
        let asked = job.metadata.deletion_timestamp.as_ref().map(|Time(t)| t.as_millisecond());
        if asked.is_some() && !job.finalizers().iter().any(|f| f == FINALIZER) {
            self.forget(key);
            return Ok(Requeue::await_change());
        }
        self.metrics.errors.get_or_create(&ReasonLabel { reason: "unreadable" }).inc();
        let message = unreadable::message(why, asked.is_some());
        if self.with_memory(key, |m| std::mem::replace(&mut m.unreadable, message.clone()) != message) {
            self.tell_unread(&job, REASON, &message);
        }

        let managed = self.children.of(key).into_iter().filter(|(_, g)| g.job_manager.is_some()).map(|(g, _)| g);
        self.watchers.set(&key.0, &key.1, &managed.collect());
        let uid = job.uid().unwrap_or_default();
        let no_record = StreamJobStatus::default();
        let (world, pods, verdict) = self.observe(key, &uid, &no_record);
        let applier = Applier {
            client: &self.client,
            jobs: &self.options.jobs,
            namespace: &key.0,
            name: &key.1,
            uid: &uid,
            status: &no_record,
            pods: &pods,
        };
        let mut failure = self.replace(&applier, &verdict).await.err();
        let Some(since) = asked else {
            self.condition(api, job, &message).await;
            if let Some(e) = failure {
                return Err(e.into());
            }
            return Ok(Requeue::requeue(verdict.look_again.map_or(RESYNC, |t| delay_until(t, world.now))));
        };

        let look = unreadable::delete(&world, since);
        if let Some(kept) = look.kept
            && self.with_memory(key, |m| std::mem::replace(&mut m.kept, kept.clone()) != kept)
        {
            self.tell_unread(&job, "Removing", &kept);
        }
        for action in &look.actions {
            tracing::info!(namespace = key.0, job = key.1, action = ?action, "act");
            if *action == Action::RemoveFinalizer {
                let rest: Vec<&String> = job.finalizers().iter().filter(|f| *f != FINALIZER).collect();
                let patch = json!({ "metadata": { "finalizers": rest, "resourceVersion": job.resource_version() } });
                api.patch(&key.1, &PatchParams::default(), &Patch::Merge(&patch)).await.map_err(write_error)?;
                let kept = self.with_memory(key, |m| std::mem::take(&mut m.kept));
                self.tell_unread(&job, "Deleted", if kept.is_empty() { &message } else { &kept });
                self.forget(key);
                return Ok(Requeue::await_change());
            }
            // one that fails keeps nobody from the others, nor from the end
            if let Err(e) = applier.act(action).await {
                tracing::warn!(namespace = key.0, job = key.1, error = %e, "not done");
                failure = Some(e);
            }
        }
        if let Some(e) = failure {
            return Err(e.into());
        }
        let until = [look.look_again, verdict.look_again].into_iter().flatten().min();
        Ok(Requeue::requeue(until.map_or(RESYNC, |t| delay_until(t, world.now))))
    }

    fn tell_unread(&self, job: &DynamicObject, reason: &str, message: &str) {
        tracing::warn!(namespace = job.namespace(), job = job.name_any(), reason, "{message}");
        let note = Note { warning: reason == REASON, reason: reason.into(), message: message.into() };
        self.events.publish(&job.object_ref(&self.kind), &[note]);
    }

    /// Sets the conditions, where they do not say so already. The API server may refuse any change of such an object: the event stays.
    async fn condition(&self, api: &Api<DynamicObject>, mut job: DynamicObject, message: &str) {
        let wanted = unreadable::conditions(message);
        let generation = job.metadata.generation.unwrap_or_default();
        let old: Vec<Condition> = job
            .data
            .pointer("/status/conditions")
            .and_then(|c| serde_json::from_value(c.clone()).ok())
            .unwrap_or_default();
        let mut conditions = old.clone();
        merge(&mut conditions, &wanted, generation, clock::now());
        if conditions == old {
            return;
        }
        let Some(data) = job.data.as_object_mut() else { return };
        match data.entry("status").or_insert_with(|| json!({})) {
            Value::Object(status) => {
                status.extend([
                    ("conditions".to_owned(), json!(conditions)),
                    ("reason".to_owned(), json!(REASON)),
                    ("message".to_owned(), json!(message)),
                ]);
            }
            _ => return,
        }
        job.metadata.managed_fields = None;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        if let Err(e) = api.replace_status(&job.name_any(), &params, &job).await {
            tracing::warn!(namespace = job.namespace(), job = job.name_any(), error = %e, "conditions not written");
        }
    }
}
