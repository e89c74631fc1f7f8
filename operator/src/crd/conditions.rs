//! Merges conditions: the transition time changes only with the status, and conditions of other writers stay.
use super::status::Millis;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

pub const READY: &str = "Ready";
pub const PROGRESSING: &str = "Progressing";
pub const DEGRADED: &str = "Degraded";
pub const SUSPENDED: &str = "Suspended";

/// One condition as `status` derives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub type_: &'static str,
    pub status: bool,
    /// One CamelCase word.
    pub reason: String,
    pub message: String,
}

/// Longest message that Kubernetes stores.
const MESSAGE_MAX: usize = 32_768;

/// Sets `wanted` in `conditions`, for generation `generation` of the spec.
pub fn merge(conditions: &mut Vec<Condition>, wanted: &[Wanted], generation: i64, now: Millis) {
    for w in wanted {
        let status = if w.status { "True" } else { "False" };
        let mut message = w.message.clone();
        truncate(&mut message, MESSAGE_MAX);
        let next = |since| Condition {
            type_: w.type_.into(),
            status: status.into(),
            reason: if w.reason.is_empty() { "Unknown".into() } else { w.reason.clone() },
            message: message.clone(),
            observed_generation: Some(generation),
            last_transition_time: since,
        };
        match conditions.iter_mut().find(|c| c.type_ == w.type_) {
            Some(c) if c.status == status => *c = next(c.last_transition_time.clone()),
            Some(c) => *c = next(time(now)),
            None => conditions.push(next(time(now))),
        }
    }
}

/// Kubernetes' time from milliseconds, in whole seconds as the API server stores it.
pub fn time(ms: Millis) -> Time {
    Time(Timestamp::from_second(ms.div_euclid(1000)).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// RFC 3339 in whole seconds.
pub fn rfc3339(ms: Millis) -> String {
    time(ms).0.to_string()
}

/// Cuts a text at a character boundary.
pub fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: bool, reason: &str) -> Vec<Wanted> {
        vec![Wanted { type_: READY, status, reason: reason.into(), message: String::new() }]
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let mut c = Vec::new();
        merge(&mut c, &ready(false, "Deploying"), 1, 1_000);
        merge(&mut c, &ready(false, "Restarting"), 2, 5_000);
        assert_eq!((c[0].last_transition_time.clone(), c[0].observed_generation), (time(1_000), Some(2)));
        merge(&mut c, &ready(true, "Running"), 2, 9_000);
        assert_eq!((c[0].last_transition_time.clone(), c[0].reason.as_str()), (time(9_000), "Running"));
    }

    #[test]
    fn a_condition_of_another_writer_stays() {
        let mut c = vec![];
        merge(&mut c, &[Wanted { type_: "Ours", status: true, reason: "X".into(), message: String::new() }], 1, 0);
        c[0].type_ = "Theirs".into();
        merge(&mut c, &ready(true, "Running"), 1, 0);
        assert_eq!(c.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["Theirs", "Ready"]);
    }

    #[test]
    fn times_are_written_as_kubernetes_does() {
        assert_eq!(rfc3339(1_700_000_000_999), "2023-11-14T22:13:20Z");
    }
}
