//! The first frames of a connection: who connects, to whom, for which job and attempt. The decision is pure.
use crate::error::{Error, ErrorCode};
use crate::exchange::ChannelId;
use crate::exchange::frame::{self, FrameError, Header, Kind};
use serde::{Deserialize, Serialize};
use weir_api::ids::Attempt;

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The job's id.
    pub job: String,
    /// The taskmanager's id.
    pub taskmanager: String,
}

/// Body of the `Hello` frame. The attempt is in the header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    pub job: String,
    pub from: String,
    /// Whom the sender believes to reach: addresses are used again, by other pods.
    pub to: String,
}

impl Hello {
    pub fn encode(&self, attempt: Attempt) -> Vec<u8> {
        // two short names cannot fail to be written as JSON
        control(Kind::Hello, attempt, &serde_json::to_vec(self).unwrap_or_default())
    }
    pub fn decode(header: &Header, body: &[u8]) -> Result<Self, FrameError> {
        if header.kind != Kind::Hello {
            return Err(FrameError::Unexpected { kind: header.kind });
        }
        let hello: Self = serde_json::from_slice(body).map_err(|e| FrameError::body(Kind::Hello, e))?;
        match [&hello.job, &hello.from, &hello.to].iter().all(|s| s.len() <= 256) {
            true => Ok(hello),
            false => Err(FrameError::body(Kind::Hello, "a name is longer than 256 bytes")),
        }
    }
}

/// A frame that concerns the whole connection.
pub fn control(kind: Kind, attempt: Attempt, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::start(&mut bytes);
    bytes.extend_from_slice(body);
    frame::seal(&mut bytes, kind, attempt, ChannelId::default(), 0);
    bytes
}

/// Tells the other side why the connection is about to be closed.
pub fn refusal(attempt: Attempt, why: &str) -> Vec<u8> {
    let cut = (0..=why.len().min(1000)).rev().find(|&i| why.is_char_boundary(i)).unwrap_or(0);
    control(Kind::Refuse, attempt, &why.as_bytes()[..cut])
}

/// The error for a connection that the other side refused.
pub fn refused(peer: &str, body: &[u8]) -> Error {
    let why = String::from_utf8_lossy(&body[..body.len().min(1000)]);
    Error::external(ErrorCode::Exchange, format_args!("{peer} closed the connection: {why}"))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Accept,
    /// A later attempt than this process has heard of: it will hear of it soon.
    Wait,
    Refuse(String),
}

/// Decides on a connection. `highest` is the highest attempt begun here; `open` says whether it still runs.
pub fn decide(hello: &Hello, attempt: Attempt, me: &Identity, highest: Attempt, open: bool) -> Decision {
    let Hello { job, from, to } = hello;
    if *job != me.job {
        return Decision::Refuse(format!("this taskmanager belongs to job {}, not to {job}", me.job));
    }
    if *to != me.taskmanager {
        return Decision::Refuse(format!(
            "this is taskmanager {}, not {to}: its address is used again",
            me.taskmanager
        ));
    }
    match attempt.cmp(&highest) {
        std::cmp::Ordering::Greater => Decision::Wait,
        std::cmp::Ordering::Equal if open => Decision::Accept,
        std::cmp::Ordering::Equal => Decision::Refuse(format!("attempt {attempt} has ended on taskmanager {to}")),
        std::cmp::Ordering::Less => Decision::Refuse(format!(
            "taskmanager {from} is fenced: it is in attempt {attempt}, taskmanager {to} in {highest}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(job: &str, to: &str) -> Hello {
        Hello { job: job.into(), from: "tm-1".into(), to: to.into() }
    }

    #[test]
    fn only_the_running_attempt_of_the_job_gets_in() {
        let me = Identity { job: "j".into(), taskmanager: "tm-2".into() };
        let ask = |h: Hello, attempt, open| decide(&h, Attempt(attempt), &me, Attempt(5), open);
        assert_eq!(ask(hello("j", "tm-2"), 5, true), Decision::Accept);
        assert_eq!(ask(hello("j", "tm-2"), 6, true), Decision::Wait);
        assert_eq!(ask(hello("j", "tm-2"), 6, false), Decision::Wait);
        for (h, attempt, open, want) in [
            (hello("k", "tm-2"), 5, true, "belongs to job j, not to k"),
            (hello("k", "tm-2"), 6, true, "belongs to job j, not to k"),
            (hello("j", "tm-3"), 5, true, "this is taskmanager tm-2, not tm-3"),
            (hello("j", "tm-2"), 4, true, "tm-1 is fenced: it is in attempt 4, taskmanager tm-2 in 5"),
            (hello("j", "tm-2"), 5, false, "attempt 5 has ended"),
        ] {
            let Decision::Refuse(why) = ask(h, attempt, open) else { panic!("{want}") };
            assert!(why.contains(want), "{why}");
        }
    }

    #[test]
    fn a_hello_comes_back_and_a_bad_one_is_refused() {
        let h = hello("ä", "tm-2");
        let bytes = h.encode(Attempt(7));
        let Ok(frame::Decoded::Frame(header, n)) = frame::decode(&bytes) else { panic!() };
        assert_eq!((header.attempt, n), (Attempt(7), bytes.len()));
        assert_eq!(Hello::decode(&header, &bytes[frame::HEADER_BYTES..]), Ok(h));
        for bad in [&b"{"[..], b"{}", b"[1]", b"\xff"] {
            assert!(Hello::decode(&header, bad).is_err());
        }
        let long = hello(&"x".repeat(300), "t").encode(Attempt(1));
        assert!(Hello::decode(&header, &long[frame::HEADER_BYTES..]).is_err());
        let wrong = Header { kind: Kind::Open, ..header };
        assert_eq!(Hello::decode(&wrong, b"{}"), Err(FrameError::Unexpected { kind: Kind::Open }));
    }

    #[test]
    fn a_long_refusal_is_cut_at_a_character() {
        let bytes = refusal(Attempt(1), &"ä".repeat(5000));
        let e = refused("taskmanager x", &bytes[frame::HEADER_BYTES..]);
        assert!(e.message.ends_with('ä') && e.message.len() < 1100);
    }
}
