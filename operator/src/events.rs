//! Publishes one event for each note. kube's recorder folds events of one reason into a series that keeps the first message only; here
//! each transition has its own words.
use crate::crd::conditions::truncate;
use crate::reconcile::plan::Note;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

/// Longest note that Kubernetes stores.
const NOTE_MAX: usize = 1_000;

/// Publishes events in the name of this process.
#[derive(Clone)]
pub struct Events {
    client: Client,
    instance: String,
}

impl Events {
    pub fn new(client: Client, instance: String) -> Self {
        Self { client, instance }
    }

    /// Publishes beside the work, not before it; one that fails is logged.
    pub fn publish(&self, regarding: &ObjectReference, notes: &[Note]) {
        if notes.is_empty() {
            return;
        }
        let name = regarding.name.as_deref().unwrap_or_default();
        let events: Vec<Event> = notes.iter().map(|n| self.event(name, regarding, n)).collect();
        let namespace = regarding.namespace.as_deref().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        tokio::spawn(async move {
            for e in events {
                if let Err(error) = api.create(&PostParams::default(), &e).await {
                    tracing::warn!(error = %error, reason = e.reason, "event not published");
                }
            }
        });
    }

    fn event(&self, name: &str, regarding: &ObjectReference, note: &Note) -> Event {
        let mut message = note.message.clone();
        truncate(&mut message, NOTE_MAX);
        Event {
            metadata: ObjectMeta { generate_name: Some(format!("{name}-")), ..ObjectMeta::default() },
            type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
            reason: Some(note.reason.clone()),
            note: Some(message),
            action: Some("Reconcile".into()),
            regarding: Some(regarding.clone()),
            event_time: Some(MicroTime(Timestamp::now())),
            reporting_controller: Some("weir.dev/operator".into()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}
