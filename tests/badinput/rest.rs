//! Malformed REST requests: each route that changes something, each kind of nonsense.

use anyhow::{Context, Result, ensure};
use weir_tests::local::{LocalJob, http};

use crate::fixture::{endless, in_folder};

const UNKNOWN: &str = "00000000000000000000000000000000";

pub fn malformed_requests() -> Result<()> {
    in_folder(|dir| {
        let mut job = LocalJob::start(endless(dir)?, 2, 2, 1)?;
        job.wait_running()?;
        job.wait_checkpoint()?;
        let path = job.job_path()?;
        let before = state(&job)?;

        let savepoints = format!("{path}/savepoints");
        let stop = format!("{path}/stop");
        for prefix in ["", "/v1"] {
            let routes =
                [("POST", format!("{prefix}{savepoints}"), "cancel-job"), ("POST", format!("{prefix}{stop}"), "drain")];
            for (method, route, boolean) in routes {
                bodies(&job, method, &route, boolean, "\"yes\"", "bool")?;
                let wrong = [
                    (r#"{"triggerId":"no blanks"}"#, "triggerId"),
                    (r#"{"formatType":"PARQUET"}"#, "use NATIVE"),
                    (r#"{"formatType":"CANONICAL"}"#, "use NATIVE"),
                    (r#"{"triggerId":7}"#, "triggerId"),
                ];
                for (body, word) in wrong {
                    refused(&job, method, &route, body, 400, &[word])?;
                }
            }
        }
        refused(
            &job,
            "POST",
            &savepoints,
            r#"{"target-directory":"relative"}"#,
            400,
            &["target-directory", "relative"],
        )?;
        refused(&job, "POST", &stop, r#"{"targetDirectory":"/a/../b"}"#, 400, &["targetDirectory", ".."])?;
        refused(&job, "POST", &stop, r#"{"targetDirectory":"s3://bucket/x"}"#, 400, &["targetDirectory", "s3://"])?;

        bodies(&job, "PUT", "/weir/v1/parallelism", "parallelism", "\"two\"", "u32")?;
        let rescale = |body| refused(&job, "PUT", "/weir/v1/parallelism", body, 400, &["parallelism"]);
        rescale(r#"{"parallelism":0,"triggerId":"t"}"#)?;
        rescale(r#"{"parallelism":-1,"triggerId":"t"}"#)?;
        rescale(r#"{"parallelism":1000,"triggerId":"t"}"#)?;
        rescale(r#"{"parallelism":99999999999,"triggerId":"t"}"#)?;
        refused(&job, "PUT", "/weir/v1/parallelism", r#"{"parallelism":2}"#, 400, &["triggerId"])?;
        let none = r#"{"parallelism":64,"triggerId":"t"}"#;
        refused(&job, "PUT", "/weir/v1/parallelism", none, 409, &["64 slots", "2 are registered"])?;

        bodies(&job, "POST", "/weir/v1/start", "stateless", "3", "bool")?;
        refused(&job, "POST", "/weir/v1/start", r#"{"restore":{"frm":"latest"}}"#, 400, &["restore", "frm"])?;

        refused(&job, "PATCH", &format!("{path}?mode=stop"), "", 400, &["mode", "stop"])?;
        refused(&job, "PATCH", &format!("/jobs/{UNKNOWN}?mode=cancel"), "", 404, &[UNKNOWN])?;
        refused(&job, "PATCH", "/jobs/flights?mode=cancel", "", 400, &["flights", "job id"])?;
        for route in ["savepoints", "stop"] {
            refused(&job, "POST", &format!("/jobs/{UNKNOWN}/{route}"), "{}", 404, &[UNKNOWN])?;
            refused(&job, "POST", &format!("/jobs/x/{route}"), "{}", 400, &["job id"])?;
        }
        for (method, route) in [
            ("DELETE", path.clone()),
            ("GET", stop.clone()),
            ("PUT", savepoints.clone()),
            ("POST", "/weir/v1/parallelism".into()),
            ("GET", "/weir/v1/start".into()),
            ("POST", "/overview".into()),
        ] {
            refused(&job, method, &route, "{}", 405, &["method"])?;
        }
        for route in [
            "/no/such/path".into(),
            format!("{savepoints}/never"),
            format!("{path}/vertices/none"),
            format!("{path}/checkpoints/details/999999"),
        ] {
            refused(&job, "GET", &route, "", 404, &[])?;
        }
        refused(&job, "GET", &format!("{path}/checkpoints/details/first"), "", 400, &["first"])?;
        refused(&job, "GET", "/weir/v1/status?after=soon", "", 400, &["query"])?;

        // not even HTTP
        for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"POST / HTTP/9\r\n\r\n", &[b'A'; 200_000]] {
            let _ = http::throw(job.rest, bytes, std::time::Duration::from_secs(5));
        }
        job.wait_checkpoint()?;
        ensure!(state(&job)? == before, "something was changed: {}", job.status()?);
        let jm = job.jobmanager()?;
        ensure!(!jm.text().contains("panicked"), "{}", jm.tail());
        Ok(())
    })
}

/// What no refused request may change.
fn state(job: &LocalJob) -> Result<String> {
    let status = job.status()?;
    let fields = ["attempt", "jobState", "phase", "parallelism", "lastSavepoint", "operation", "terminal", "instance"];
    Ok(fields.iter().map(|f| format!("{f}={} ", status[*f])).collect())
}

/// Nonsense that every route with a body refuses.
fn bodies(job: &LocalJob, method: &str, route: &str, field: &str, wrong: &str, kind: &str) -> Result<()> {
    let typed = format!("{{\"{field}\":{wrong}}}");
    for (body, words) in [
        (r#"{"surprise":1}"#.to_owned(), &["unknown field", "surprise"][..]),
        (typed, &[field, kind][..]),
        ("not json".into(), &["request body"][..]),
        ("{\"a\":".into(), &["request body"][..]),
        ("[1,2]".into(), &["request body"][..]),
        ("{} {}".into(), &["request body"][..]),
        ("\u{0}\u{1}".into(), &["request body"][..]),
    ] {
        refused(job, method, route, &body, 400, words)?;
    }
    let large = format!("{{\"surprise\":\"{}\"}}", "x".repeat(1 << 20));
    refused(job, method, route, &large, 413, &["request body", "bytes"])
}

fn refused(job: &LocalJob, method: &str, route: &str, body: &str, status: u16, words: &[&str]) -> Result<()> {
    let what = || {
        let shown: String = body.chars().take(80).collect();
        format!("{method} {route} with {shown:?}")
    };
    let body = (!body.is_empty()).then_some(("application/json", body.as_bytes()));
    let answer = http::request(job.rest, method, route, body).with_context(what)?;
    ensure!(answer.status == status, "{}: {} instead of {status}: {}", what(), answer.status, answer.body);
    let errors = answer.errors().with_context(what)?;
    for word in words {
        ensure!(errors.contains(word), "{}: does not say {word:?}: {errors}", what());
    }
    Ok(())
}
