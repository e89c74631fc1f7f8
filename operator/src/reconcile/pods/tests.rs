//! When a pod is replaced, when it is left alone, and what is said about it.
use super::*;

fn pod(name: &str) -> PodObs {
    PodObs {
        name: name.into(),
        uid: format!("uid-{name}"),
        generation: 1,
        role: Role::TaskManager,
        gone_by: None,
        node_lost: false,
        unschedulable: String::new(),
        containers: vec![ContainerObs { running: Some(0), ..ContainerObs::default() }],
        unregistered: false,
        fenced: false,
    }
}

/// The only container.
fn only(p: &mut PodObs) -> &mut ContainerObs {
    &mut p.containers[0]
}

fn end(started: Millis, finished: Millis, reason: &str, exit_code: i32) -> End {
    End {
        reason: reason.into(),
        message: "log line\nerror: no such file /data\n\nFor more, try --help\n".into(),
        exit_code,
        started,
        finished,
    }
}

fn names(v: &Verdict) -> Vec<&str> {
    v.replace.iter().map(|r| r.name.as_str()).collect()
}

#[test]
fn the_first_end_is_left_to_the_kubelet_and_the_second_costs_the_pod() {
    let mut h = PodHistory::default();
    let mut p = pod("a");
    only(&mut p).terminated = Some(end(0, 60_000, "Error", 137));
    assert_eq!(h.look(&[p.clone()], 60_100), Verdict::default());
    let c = only(&mut p);
    (c.terminated, c.last_terminated, c.restarts) = (None, Some(end(0, 60_000, "Error", 137)), 1);
    assert!(names(&h.look(&[p.clone()], 61_000)).is_empty());
    only(&mut p).terminated = Some(end(61_000, 90_000, "Error", 137));
    assert_eq!(names(&h.look(&[p.clone()], 90_100)), ["a"]);
    // already in back-off when first seen: the operator was away
    let c = only(&mut p);
    (c.terminated, c.waiting) = (None, Some(("CrashLoopBackOff".into(), "back-off 10s".into())));
    assert_eq!(names(&PodHistory::default().look(&[p], 90_200)), ["a"]);
}

#[test]
fn repeated_kills_of_a_healthy_pod_never_wait() {
    let mut h = PodHistory::default();
    for kill in 1..20 {
        let at = kill * 15_000;
        let mut p = pod(&format!("p{kill}"));
        only(&mut p).restarts = 1;
        only(&mut p).terminated = Some(end(at - 12_000, at, "Error", 137));
        assert_eq!(h.look(&[p], at + 10).replace.len(), 1, "kill {kill}");
    }
}

#[test]
fn pods_that_keep_dying_young_are_replaced_ever_more_rarely_and_named() {
    let mut h = PodHistory::default();
    let (mut at, mut waits) = (0, Vec::new());
    let mut problem = String::new();
    for n in 0..12 {
        let mut p = pod(&format!("p{n}"));
        only(&mut p).restarts = 1;
        only(&mut p).terminated = Some(end(at, at + 500, "Error", 1));
        at += 500;
        let v = h.look(&[p.clone()], at);
        if let Some(x) = v.problems.first() {
            problem = format!("{}: {}", x.reason, x.message);
        }
        let wake = v.look_again.unwrap_or(at);
        waits.push(wake - at);
        at = wake;
        assert_eq!(names(&h.look(&[p], at)).len(), 1);
    }
    assert_eq!(waits, [0, 0, 0, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000, 60000]);
    assert!(problem.starts_with("CrashLoopBackOff: the taskmanager ended 12 times within 10 s"), "{problem}");
    assert!(problem.ends_with("exit code 1: error: no such file /data"), "{problem}");
    // a long life starts over
    let mut p = pod("old");
    only(&mut p).restarts = 1;
    only(&mut p).terminated = Some(end(at, at + 20_000, "Error", 137));
    assert_eq!(names(&h.look(&[p], at + 20_001)), ["old"]);
}

#[test]
fn an_end_counts_once_however_often_it_is_seen() {
    let mut h = PodHistory::default();
    let mut p = pod("a");
    only(&mut p).last_terminated = Some(end(0, 500, "Error", 1));
    for now in [600, 700, 800, 900] {
        assert!(h.look(&[p.clone()], now).problems.is_empty());
    }
}

#[test]
fn lack_of_memory_is_named_and_forgotten_after_a_minute() {
    let mut h = PodHistory::default();
    let mut p = pod("a");
    let c = only(&mut p);
    (c.last_terminated, c.restarts) = (Some(end(0, 50_000, "OOMKilled", 137)), 1);
    let v = h.look(&[p.clone()], 50_500);
    assert_eq!(v.problems[0].reason, "OOMKilled");
    assert!(v.problems[0].message.contains("spec.taskManager.resources.limits.memory"));
    assert_eq!(v.look_again, Some(110_500));
    assert!(h.look(&[p], 110_500).problems.is_empty());
}

#[test]
fn a_limit_too_low_to_start_the_container_is_named_as_lack_of_memory() {
    let mut p = pod("a");
    let mut end = end(0, 60_000, "StartError", 128);
    end.message = "runc create failed: container init was OOM-killed (memory limit too low?): unknown".into();
    only(&mut p).terminated = Some(end);
    let v = PodHistory::default().look(&[p], 60_100);
    assert_eq!(v.problems[0].reason, "OOMKilled");
    assert!(v.problems[0].message.contains("spec.taskManager.resources.limits.memory"));
}

#[test]
fn pull_and_scheduling_problems_are_named_with_kubernetes_own_words() {
    let mut p = pod("a");
    let c = only(&mut p);
    (c.running, c.waiting) = (None, Some(("ImagePullBackOff".into(), "Back-off pulling image \"x:1\"".into())));
    let mut q = pod("b");
    q.unschedulable = "0/2 nodes are available: 2 Insufficient cpu.".into();
    let v = PodHistory::default().look(&[p, q], 0);
    assert_eq!(v.problems[0].reason, "ImagePullBackOff");
    assert!(v.problems[0].message.contains("x:1"));
    assert_eq!(v.problems[1].reason, "Unschedulable");
    assert!(v.replace.is_empty());
}

#[test]
fn a_pod_on_a_lost_node_is_given_up() {
    let mut p = pod("a");
    p.gone_by = Some(4_000);
    let mut h = PodHistory::default();
    let v = h.look(&[p.clone()], 2_000);
    assert_eq!((names(&v).len(), v.look_again), (0, Some(14_000)));
    assert!(h.look(&[p.clone()], 14_000).replace[0].force);
    p.node_lost = true;
    assert!(h.look(&[p], 2_000).replace[0].force);
}

#[test]
fn a_pod_with_one_of_two_processes_left_is_left_alone() {
    let mut h = PodHistory::default();
    let mut p = pod("a");
    p.containers.push(ContainerObs { running: Some(0), ..ContainerObs::default() });
    let c = &mut p.containers[0];
    (c.running, c.restarts, c.terminated) = (None, 3, Some(end(0, 60_000, "Error", 137)));
    assert!(names(&h.look(&[p.clone()], 60_100)).is_empty());
    let c = &mut p.containers[1];
    (c.running, c.terminated) = (None, Some(end(0, 61_000, "Error", 137)));
    assert!(names(&h.look(&[p.clone()], 61_100)).is_empty(), "the kubelet restarts the second at once");
    p.containers[1].restarts = 1;
    assert_eq!(names(&h.look(&[p], 61_200)), ["a"]);
}

#[test]
fn a_taskmanager_that_its_jobmanager_lost_is_replaced_before_the_kubelet_notices() {
    let mut h = PodHistory::default();
    let mut p = pod("a");
    p.unregistered = true;
    assert!(names(&h.look(&[p.clone()], 60_000)).is_empty(), "the kubelet restarts it at once");
    only(&mut p).restarts = 1;
    assert!(names(&h.look(&[p.clone()], 3_000)).is_empty(), "it has just started");
    assert_eq!(names(&h.look(&[p], 60_000)), ["a"]);
}

#[test]
fn a_fenced_jobmanager_that_nobody_follows_is_replaced() {
    let mut p = pod("a");
    p.fenced = true;
    assert_eq!(names(&PodHistory::default().look(&[p.clone()], 1_000)), ["a"]);
    p.gone_by = Some(2_000);
    assert!(names(&PodHistory::default().look(&[p], 1_000)).is_empty(), "it is going already");
}

#[test]
fn a_young_pod_that_goes_as_it_was_told_has_not_crashed() {
    let mut h = PodHistory::default();
    for name in ["a", "b", "c"] {
        let mut p = pod(name);
        p.uid = name.into();
        p.gone_by = Some(40_000);
        only(&mut p).terminated = Some(end(0, 3_000, "Completed", 0));
        assert!(h.look(&[p], 4_000).problems.is_empty());
    }
}
