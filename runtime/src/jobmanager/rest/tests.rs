//! The interface over real HTTP, in front of a real driver and a taskmanager in this process.
use super::router;
use crate::connectors::{Blackhole, Generator};
use crate::graph::LogicalGraph;
use crate::job::Job;
use crate::jobmanager::{Handle, JobManager};
use crate::taskmanager::{self, Health, TaskManager};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use weir_api::config::{JobConfig, TaskManagerConfig};
use weir_api::ids::JobName;

/// Counts up for ever, at a moderate rate.
fn graph() -> Arc<LogicalGraph> {
    let mut job = Job::default();
    job.source("numbers", Generator::unbounded(|i| i).rate(1000.0))
        .key_by(|i: &u64| i)
        .reduce("sum", |a: &mut u64, b: u64| *a += b)
        .sink("out", Blackhole);
    Arc::new(job.into_graph())
}

struct Cluster {
    address: SocketAddr,
    jm: Handle,
    job: String,
    leave: watch::Sender<bool>,
    folder: tempfile::TempDir,
}

async fn cluster(with_taskmanager: bool) -> Cluster {
    let folder = tempfile::tempdir().unwrap();
    let mut config = JobConfig::new(JobName { namespace: "default".into(), name: "sum".into() }, 2);
    config.checkpoint.storage = Some(format!("file://{}", folder.path().display()));
    let job = config.job.job_id();
    let rpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let jobmanager = rpc.local_addr().unwrap().to_string();
    let jm = JobManager::new(config, graph(), rpc, Duration::ZERO).unwrap();
    let handle = jm.handle();
    tokio::spawn(jm.run());
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = http.local_addr().unwrap();
    let routes = router(handle.clone());
    tokio::spawn(async move { axum::serve(http, routes).await });
    let (leave, shutdown) = watch::channel(false);
    if with_taskmanager {
        let config = TaskManagerConfig {
            id: "tm-1".into(),
            jobmanager,
            slots: 2,
            data_address: String::new(),
            advertised_host: String::new(),
            http_address: None,
        };
        let data = tokio::runtime::Handle::current().into();
        let tm =
            TaskManager { config, graph: graph(), data, exchange: None, health: Health::default(), patience: None };
        tokio::spawn(taskmanager::run(tm, "127.0.0.1:1".into(), shutdown));
        let running = handle.clone();
        running.status().wait_for(|s| s.all_tasks_running).await.unwrap();
    }
    Cluster { address, jm: handle, job, leave, folder }
}

impl Cluster {
    async fn send(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let path = path.replace(":id", &self.job);
        let mut s = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        s.write_all(head.as_bytes()).await.unwrap();
        // the server may answer before it has read a body that it refuses
        let _ = s.write_all(body).await;
        let mut text = Vec::new();
        let _ = s.read_to_end(&mut text).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").map_or(String::new(), |(_, b)| b.to_owned()))
    }
    async fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (status, text) = self.send(method, path, &bytes).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{method} {path}: {e}: {text}")))
    }
    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.json("GET", path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
    async fn savepoint_outcome(&self, id: &str) -> Value {
        loop {
            let r = self.get(&format!("/jobs/:id/savepoints/{id}")).await;
            if r["status"]["id"] == "COMPLETED" {
                return r["operation"].clone();
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.leave.send(true);
        self.jm.leave();
    }
}

#[tokio::test]
async fn flinks_paths_have_flinks_fields_with_and_without_the_prefix() {
    let c = cluster(true).await;
    for prefix in ["", "/v1"] {
        let get = async |path: &str| c.get(&format!("{prefix}{path}")).await;
        let o = get("/overview").await;
        assert_eq!((&o["taskmanagers"], &o["slots-total"], &o["jobs-running"]), (&json!(1), &json!(2), &json!(1)));
        assert_eq!(get("/jobs").await["jobs"][0], json!({"id": c.job, "status": "RUNNING"}));
        let j = &get("/jobs/overview").await["jobs"][0];
        assert_eq!((&j["jid"], &j["state"], &j["name"]), (&json!(c.job), &json!("RUNNING"), &json!("sum")));
        assert_eq!(j["tasks"]["running"], j["tasks"]["total"]);
        let d = get("/jobs/:id").await;
        assert!(d["vertices"].as_array().is_some_and(|v| v.len() == 2) && d["plan"]["nodes"].is_array(), "{d}");
        assert!(d["timestamps"]["RUNNING"].as_i64() > Some(0));
        let vertex = d["vertices"][0]["id"].as_str().unwrap();
        let v = get(&format!("/jobs/:id/vertices/{vertex}")).await;
        assert_eq!(
            (&v["subtasks"][0]["status"], &v["subtasks"][0]["taskmanager-id"]),
            (&json!("RUNNING"), &json!("tm-1"))
        );
        let checkpoints = get("/jobs/:id/checkpoints").await;
        for field in ["counts", "summary", "latest", "history"] {
            assert!(!checkpoints[field].is_null(), "{field}");
        }
        assert_eq!(get("/jobs/:id/checkpoints/config").await["mode"], "exactly_once");
        assert_eq!(get("/jobs/:id/exceptions").await["exceptionHistory"]["entries"], json!([]));
        assert_eq!(get("/jobs/:id/metrics?get=numRestarts").await, json!([{"id": "numRestarts", "value": "0"}]));
        assert_eq!(get("/taskmanagers").await["taskmanagers"][0]["slotsNumber"], 2);
        assert!(get("/config").await["refresh-interval"].is_number());
    }
    assert_eq!(c.send("GET", "/livez", b"").await.0, 200);
    assert_eq!(c.send("GET", "/readyz", b"").await.0, 200);
    let (status, page) = c.send("GET", "/metrics", b"").await;
    assert!(status == 200 && page.contains("weir_job_running{namespace=\"default\",job=\"sum\"} 1"), "{page}");
}

/// The names of an object's fields must be these.
fn has_keys(what: &str, value: &Value, keys: &str) {
    let found: std::collections::BTreeSet<&str> =
        value.as_object().unwrap_or_else(|| panic!("{what}: {value}")).keys().map(String::as_str).collect();
    assert_eq!(found, keys.split_whitespace().collect(), "{what}");
}

#[tokio::test]
async fn each_body_has_flinks_fields_and_only_those_of_ours_that_the_docs_name() {
    let c = cluster(true).await;
    c.jm.status().wait_for(|s| s.last_checkpoint.is_some()).await.unwrap();
    let get = async |path: &str| c.get(path).await;
    let o = get("/overview").await;
    let keys = "taskmanagers slots-total slots-available jobs-running jobs-finished jobs-cancelled jobs-failed \
        flink-version flink-commit";
    has_keys("overview", &o, keys);
    let config = get("/config").await;
    let keys = "refresh-interval timezone-name timezone-offset flink-version flink-revision features";
    has_keys("config", &config, keys);
    has_keys("features", &config["features"], "web-submit web-cancel web-rescale web-history");
    has_keys("jobs", &get("/jobs").await["jobs"][0], "id status");
    let keys = "jid name jobType schedulerType start-time end-time duration state last-modification tasks \
        pending-operators";
    has_keys("jobs/overview", &get("/jobs/overview").await["jobs"][0], keys);

    let job = get("/jobs/:id").await;
    let keys = "jid name isStoppable state job-type schedulerType application-id start-time end-time duration \
        maxParallelism now timestamps vertices status-counts plan stream-graph";
    has_keys("job", &job, keys);
    let vertex = &job["vertices"][1];
    let keys =
        "id slotSharingGroupId name maxParallelism parallelism status start-time end-time duration tasks metrics";
    has_keys("vertex", vertex, keys);
    let io = "read-bytes read-bytes-complete write-bytes write-bytes-complete read-records read-records-complete \
        write-records write-records-complete accumulated-backpressured-time accumulated-idle-time \
        accumulated-busy-time";
    has_keys("metrics", &vertex["metrics"], io);
    has_keys("plan", &job["plan"], "jid name type nodes");
    let keys = "id parallelism operator operator_strategy description inputs";
    has_keys("plan node", &job["plan"]["nodes"][1], keys);
    has_keys("plan input", &job["plan"]["nodes"][1]["inputs"][0], "num id ship_strategy exchange");
    let id = vertex["id"].as_str().unwrap();
    let details = get(&format!("/jobs/:id/vertices/{id}")).await;
    has_keys("vertex details", &details, "id name parallelism maxParallelism now subtasks");
    let keys = "subtask status attempt endpoint start-time end-time duration metrics taskmanager-id";
    has_keys("subtask", &details["subtasks"][0], keys);
    has_keys("metric", &get("/jobs/:id/metrics?get=numRestarts").await[0], "id value");

    let t = &get("/taskmanagers").await["taskmanagers"][0];
    let keys = "id path dataPort jmxPort timeSinceLastHeartbeat slotsNumber freeSlots assignedTasks totalResource \
        freeResource hardware memoryConfiguration blocked residentBytes pid";
    has_keys("taskmanager", t, keys);
    let keys = "cpuCores taskHeapMemory taskOffHeapMemory managedMemory networkMemory extendedResources";
    has_keys("totalResource", &t["totalResource"], keys);
    has_keys("freeResource", &t["freeResource"], keys);
    has_keys("hardware", &t["hardware"], "cpuCores physicalMemory freeMemory managedMemory");
    let keys = "frameworkHeap taskHeap frameworkOffHeap taskOffHeap networkMemory managedMemory jvmMetaspace \
        jvmOverhead totalFlinkMemory totalProcessMemory";
    has_keys("memoryConfiguration", &t["memoryConfiguration"], keys);

    let checkpoints = get("/jobs/:id/checkpoints").await;
    has_keys("checkpoints", &checkpoints, "counts summary latest history");
    has_keys("counts", &checkpoints["counts"], "restored total in_progress completed failed");
    let summaries = "checkpointed_size state_size end_to_end_duration alignment_buffered processed_data persisted_data";
    has_keys("summary", &checkpoints["summary"], summaries);
    for name in summaries.split_whitespace() {
        has_keys(name, &checkpoints["summary"][name], "min max avg p50 p90 p95 p99 p999");
    }
    let duration = &checkpoints["summary"]["end_to_end_duration"];
    assert!(duration["p50"].as_u64() <= duration["p999"].as_u64() && duration["p999"] == duration["max"], "{duration}");
    has_keys("latest", &checkpoints["latest"], "completed savepoint failed restored");
    let keys = "className id status is_savepoint savepointFormat trigger_timestamp latest_ack_timestamp \
        checkpointed_size state_size end_to_end_duration alignment_buffered processed_data persisted_data \
        num_subtasks num_acknowledged_subtasks checkpoint_type tasks external_path discarded log-index";
    let completed = &checkpoints["latest"]["completed"];
    has_keys("checkpoint", completed, keys);
    let details = get(&format!("/jobs/:id/checkpoints/details/{}", completed["id"])).await;
    has_keys("checkpoint details", &details, keys);
    let keys = "id status latest_ack_timestamp checkpointed_size state_size end_to_end_duration alignment_buffered \
        processed_data persisted_data num_subtasks num_acknowledged_subtasks alignment_duration sync_duration \
        async_duration";
    has_keys("task", &details["tasks"][id], keys);
    let keys = "mode interval timeout min_pause max_concurrent externalization state_backend checkpoint_storage \
        unaligned_checkpoints tolerable_failed_checkpoints aligned_checkpoint_timeout checkpoints_after_tasks_finish \
        state_changelog_enabled num-retained";
    let config = get("/jobs/:id/checkpoints/config").await;
    has_keys("checkpoint config", &config, keys);
    has_keys("externalization", &config["externalization"], "enabled delete_on_cancellation");

    // a taskmanager that leaves is a failure of the attempt
    c.leave.send(true).unwrap();
    c.jm.status().wait_for(|s| s.restarts == 1).await.unwrap();
    let e = get("/jobs/:id/exceptions").await;
    has_keys("exceptions", &e, "exceptionHistory");
    let history = &e["exceptionHistory"];
    has_keys("exceptionHistory", history, "entries truncated");
    let keys = "exceptionName stacktrace timestamp taskName endpoint taskManagerId failureLabels concurrentExceptions";
    has_keys("exception", &history["entries"][0], keys);
    assert_eq!((history["entries"].as_array().map(Vec::len), &history["truncated"]), (Some(1), &json!(false)));
    let e = &get("/jobs/:id/exceptions?maxExceptions=0").await["exceptionHistory"];
    assert_eq!((&e["entries"], &e["truncated"]), (&json!([]), &json!(true)));
}

#[tokio::test]
async fn a_savepoint_then_a_stop_by_rest() {
    let c = cluster(true).await;
    let (status, r) = c.json("POST", "/jobs/:id/savepoints", &json!({"triggerId": "t1"})).await;
    assert_eq!((status, &r["request-id"]), (202, &json!("t1")));
    let (status, _) = c.json("POST", "/v1/jobs/:id/savepoints", &json!({"triggerId": "t1"})).await;
    assert_eq!(status, 202, "the same trigger again starts nothing");
    let o = c.savepoint_outcome("t1").await;
    assert!(o["location"].as_str().is_some_and(|l| l.starts_with("file:///") && l.contains("savepoint-")), "{o}");
    assert_eq!(c.get("/jobs/:id/checkpoints").await["latest"]["savepoint"]["status"], "COMPLETED");
    let savepoints = c.get("/jobs/:id/checkpoints").await["history"]
        .as_array()
        .map(|h| h.iter().filter(|c| c["is_savepoint"] == true).count());
    assert_eq!(savepoints, Some(1));
    let (status, r) = c.json("POST", "/jobs/:id/stop", &json!({"drain": false})).await;
    assert_eq!(status, 202);
    let id = r["request-id"].as_str().unwrap().to_owned();
    let mut status = c.jm.status();
    let ended = status.wait_for(|s| s.terminal.is_some()).await.unwrap().clone();
    assert_eq!(ended.operation.as_ref().map(|o| o.trigger_id.as_str()), Some(id.as_str()));
    assert_eq!(serde_json::to_value(&ended.terminal).unwrap()["status"], "Stopped");
    assert_eq!(serde_json::to_value(ended.job_state).unwrap(), "FINISHED");
}

#[tokio::test]
async fn a_drain_to_a_place_that_cannot_be_written_changes_nothing_and_one_that_can_ends_the_job() {
    let c = cluster(true).await;
    let file = c.folder.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let stop = async |target: &std::path::Path| {
        let (status, r) = c.json("POST", "/jobs/:id/stop", &json!({"drain": true, "targetDirectory": target})).await;
        assert_eq!(status, 202, "{r}");
        r["request-id"].as_str().unwrap().to_owned()
    };
    let o = c.savepoint_outcome(&stop(&file.join("below")).await).await;
    assert!(o["failure-cause"]["stack-trace"].as_str().is_some_and(|w| w.contains("file/below")), "{o}");
    let s = c.get("/weir/v1/status").await;
    assert_eq!((&s["jobState"], &s["attempt"], &s["restarts"]), (&json!("RUNNING"), &json!(1), &json!(0)));
    let target = c.folder.path().join("savepoints");
    stop(&target).await;
    let ended = c.jm.status().wait_for(|s| s.terminal.is_some()).await.unwrap().clone();
    assert_eq!(serde_json::to_value(&ended.terminal).unwrap()["status"], "Stopped");
    let found: Vec<_> = std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(found.len() == 1 && found[0].to_string_lossy().starts_with("savepoint-sum-"), "{found:?}");
}

#[tokio::test]
async fn malformed_requests_are_refused_with_a_sentence_that_names_what_is_wrong() {
    let c = cluster(false).await;
    let other = "0".repeat(32);
    let cases: &[(&str, &str, &[u8], u16, &str)] = &[
        ("POST", "/jobs/:id/stop", b"{", 400, "EOF"),
        ("POST", "/jobs/:id/stop", b"{} x", 400, "trailing characters"),
        ("POST", "/jobs/:id/stop", b"\xff\xfe", 400, "expected value"),
        ("POST", "/jobs/:id/stop", br#"{"drain":"yes"}"#, 400, "drain: invalid type: string"),
        ("POST", "/jobs/:id/stop", br#"{"drian":true}"#, 400, "unknown field `drian`"),
        ("POST", "/jobs/:id/stop", br#"{"targetDirectory":"x"}"#, 400, "targetDirectory"),
        ("POST", "/jobs/:id/savepoints", br#"{"formatType":"AVRO"}"#, 400, "formatType"),
        (
            "POST",
            "/jobs/:id/savepoints",
            br#"{"formatType":"CANONICAL"}"#,
            400,
            "canonical savepoints are not there yet",
        ),
        ("POST", "/jobs/:id/stop", br#"{"formatType":"CANONICAL"}"#, 400, "use NATIVE or leave formatType out"),
        ("POST", "/jobs/:id/savepoints", b"", 409, "not all running"),
        ("PUT", "/weir/v1/parallelism", br#"{"parallelism":-1,"triggerId":"a"}"#, 400, "parallelism"),
        ("PUT", "/weir/v1/parallelism", br#"{"parallelism":0,"triggerId":"a"}"#, 400, "between 1 and"),
        ("PUT", "/weir/v1/parallelism", br#"{"parallelism":2}"#, 400, "missing field `triggerId`"),
        ("POST", "/weir/v1/start", br#"{"restore":{"from":1}}"#, 400, "restore.from: invalid type"),
        ("PATCH", "/jobs/:id?mode=stop", b"", 400, "mode"),
        ("GET", "/weir/v1/status?after=x", b"", 400, "after"),
        ("GET", "/jobs/xyz", b"", 400, "not a job id"),
        ("GET", "/jobs/:id/checkpoints/details/x", b"", 400, "not the number"),
        ("GET", "/jobs/:id/checkpoints/details/99", b"", 404, "99"),
        ("GET", "/jobs/:id/savepoints/none", b"", 404, "none"),
        ("GET", "/jobs/:id/vertices/none", b"", 404, "none"),
        ("GET", "/jobs/:id/exceptions?maxExceptions=-1", b"", 400, "maxExceptions"),
        ("GET", "/nothing", b"", 404, "no such path"),
        ("DELETE", "/jobs/:id", b"", 405, "method"),
        ("POST", "/v1/overview", b"", 405, "method"),
    ];
    for (method, path, body, expected, says) in cases {
        let (status, text) = c.send(method, path, body).await;
        let e: weir_api::rest::ErrorBody =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}"));
        assert!(status == *expected && e.errors[0].contains(says), "{method} {path} {body:?}: {status} {e:?}");
    }
    let (status, text) = c.send("GET", &format!("/jobs/{other}"), b"").await;
    assert!(status == 404 && text.contains(&other), "{text}");
    let (status, text) = c.send("POST", "/jobs/:id/stop", &vec![b' '; 70 << 10]).await;
    assert!(status == 413 && text.contains("errors"), "{status} {text}");
}

#[tokio::test]
async fn the_status_can_be_waited_for() {
    let c = cluster(false).await;
    c.jm.status().wait_for(|s| s.reason.contains("slots")).await.unwrap();
    let s = c.get("/weir/v1/status").await;
    assert_eq!((&s["phase"], &s["jobState"], &s["slotsTotal"]), (&json!("Active"), &json!("CREATED"), &json!(0)));
    let version = s["version"].as_u64().unwrap();
    let (waited, cancelled) =
        tokio::join!(async { c.get(&format!("/weir/v1/status?after={version}&timeout=60000")).await }, async {
            c.send("PATCH", "/jobs/:id?mode=cancel", b"").await
        });
    assert_eq!(cancelled.0, 202);
    assert!(waited["version"].as_u64() > Some(version));
    // nothing changes behind this one: it ends by its timeout
    let now = c.jm.status().wait_for(|s| s.terminal.is_some()).await.unwrap().version;
    assert_eq!(c.get(&format!("/weir/v1/status?after={now}&timeout=1")).await["version"], now);
}
