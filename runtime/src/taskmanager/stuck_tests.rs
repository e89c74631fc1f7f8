//! A taskmanager whose user code does not return, with a real jobmanager.
use super::{Health, Stuck, TaskManager, run};
use crate::connectors::{Blackhole, Generator};
use crate::graph::LogicalGraph;
use crate::job::Job;
use crate::jobmanager::JobManager;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use weir_api::config::{JobConfig, TaskManagerConfig};
use weir_api::ids::JobName;

/// Each record waits until the sender is gone.
fn graph(held: Receiver<()>, entered: Arc<Notify>) -> Arc<LogicalGraph> {
    let held = Arc::new(Mutex::new(held));
    let mut job = Job::default();
    job.source("numbers", Generator::unbounded(|i| i))
        .map(move |i| {
            entered.notify_one();
            let _ = held.lock().map(|h| h.recv());
            i
        })
        .sink("out", Blackhole);
    Arc::new(job.into_graph())
}

#[tokio::test]
async fn it_gives_up_instead_of_waiting_for_ever_and_says_at_once_that_it_is_not_ready() {
    let ((release, held), entered) = (channel(), Arc::new(Notify::new()));
    let graph = graph(held, entered.clone());
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (jobmanager, data) = (runtime(), runtime());
    let rpc = jobmanager.spawn(TcpListener::bind("127.0.0.1:0")).await.unwrap().unwrap();
    let config = TaskManagerConfig {
        id: "tm-1".into(),
        jobmanager: rpc.local_addr().unwrap().to_string(),
        slots: 1,
        data_address: String::new(),
        advertised_host: String::new(),
        http_address: None,
    };
    let job = JobConfig::new(JobName { namespace: "default".into(), name: "stuck".into() }, 1);
    let plan = graph.clone();
    jobmanager.spawn(async move { JobManager::new(job, plan, rpc, Duration::ZERO).unwrap().run().await });
    let health = Health::default();
    let tm = TaskManager {
        config,
        graph,
        data: data.handle().clone().into(),
        exchange: None,
        health: health.clone(),
        patience: Some(Duration::from_millis(100)),
    };
    let (_leave, shutdown) = watch::channel(false);
    let taskmanager = tokio::spawn(run(tm, "127.0.0.1:1".into(), shutdown));
    entered.notified().await;
    assert!(health.get().registered);
    // the connection ends with the jobmanager's process
    jobmanager.shutdown_background();
    let end = tokio::time::timeout(Duration::from_secs(60), taskmanager).await.expect("it waits for ever").unwrap();
    assert_eq!(end, Err(Stuck(Duration::from_millis(100))));
    let health = health.get();
    assert!(!health.registered && !health.reason.is_empty());
    drop(release);
    data.shutdown_background();
}
