//! The plan at work: each behaviour once undisturbed, and with the operator crashing at every point of it.
use super::sim::{Entry, Sim};
use super::*;
use serde_json::json;

/// Runs `act` on a running job with a crash at each point in turn, and `check` on each outcome.
fn crash_everywhere(over: serde_json::Value, act: fn(&mut Sim), check: fn(&Sim, &str)) {
    let mut s = Sim::running(over.clone());
    let before = s.points;
    act(&mut s);
    s.settle();
    check(&s, "undisturbed");
    let points = s.points - before;
    assert!(points > 10, "the scenario has {points} points only");
    for n in 0..points.min(120) {
        let mut s = Sim::running(over.clone());
        s.crash_in(n);
        act(&mut s);
        s.settle();
        check(&s, &format!("crash at point {n}"));
    }
}

#[test]
fn a_launch_creates_everything_at_once_and_is_ready_for_its_generation() {
    let mut s = Sim::new(json!({}));
    s.pass();
    assert_eq!(s.condition("Ready"), ("False".into(), "Starting".into(), Some(1)));
    let k = &s.kids[&1];
    assert!(k.service && k.has_manager && k.task_managers == Some(2));
    s.settle();
    assert_eq!(s.condition("Ready"), ("True".into(), "Running".into(), Some(1)));
    assert_eq!((s.stored.parallelism, s.stored.rollout.is_none()), (2, true));
    assert_eq!(s.stored.reason, "");
}

#[test]
fn an_upgrade_stops_with_one_savepoint_and_restores_it_wherever_the_operator_crashes() {
    crash_everywhere(
        json!({}),
        |s| s.edit(json!({"image": "flights:2"})),
        |s, when| {
            assert_eq!(s.stops().len(), 1, "{when}: {:?}", s.log);
            let stop = s.stops()[0] as u64;
            assert_eq!(s.claims().last(), Some(&(2, Some(stop))), "{when}");
            assert_eq!(s.generations(), [2], "{when}");
            assert_eq!(s.condition("Ready"), ("True".into(), "Running".into(), Some(2)), "{when}");
            assert_eq!(s.stored.restarts, 0, "{when}");
        },
    );
}

#[test]
fn the_old_generation_runs_until_the_next_one_is_prepared() {
    let mut s = Sim::running(json!({}));
    s.edit(json!({"args": ["--new"]}));
    s.pass();
    assert_eq!((s.condition("Ready").0.as_str(), s.condition("Ready").2), ("False", Some(2)));
    assert_eq!(s.stored.rollout.as_ref().unwrap().because, "spec.args: [] -> [\"--new\"]");
    assert_eq!(s.kids[&2].task_managers, None);
    assert_eq!(s.claims().len(), 1);
}

#[test]
fn a_jobmanager_killed_at_any_moment_of_an_upgrade_loses_nothing() {
    for victim in [1, 2] {
        for at in 0..25 {
            let mut s = Sim::running(json!({}));
            s.edit(json!({"image": "flights:2"}));
            for t in 0..25 {
                if t == at {
                    s.kill_manager(victim);
                }
                s.pass();
                s.tick();
            }
            s.settle();
            let when = format!("jobmanager of generation {victim} killed at {at}: {:?}", s.log);
            assert!(s.stops().len() <= 2, "{when}");
            let claims = s.claims();
            assert_eq!(claims.last().unwrap().0, 2, "{when}");
            assert!(claims[1..].iter().all(|(_, r)| r.is_some()), "started empty: {when}");
            assert_eq!((s.stored.phase.as_str(), s.generations()), ("Running", vec![2]), "{when}");
        }
    }
}

#[test]
fn a_bad_image_leaves_the_old_generation_running_until_the_spec_is_mended() {
    for mended in [json!({"image": "flights:3"}), json!({"image": "flights:1"})] {
        let mut s = Sim::running(json!({}));
        s.broken = vec![2];
        s.edit(json!({"image": "no-such"}));
        s.settle();
        assert_eq!((s.stops().len(), s.claims().len(), s.generations()), (0, 1, vec![1, 2]));
        let checkpoints = s.log.len();
        s.tick();
        assert!(s.log.len() > checkpoints, "the old generation works on");
        s.edit(mended.clone());
        s.settle();
        let wanted = if mended["image"] == "flights:1" { vec![1] } else { vec![3] };
        assert_eq!(s.generations(), wanted);
        assert_eq!(s.condition("Ready"), ("True".into(), "Running".into(), Some(3)));
    }
}

#[test]
fn taskmanagers_that_do_not_start_keep_the_old_generation_running_unless_they_only_lack_room() {
    let problem = |reason: &str| crate::reconcile::world::Problem {
        generation: 2,
        reason: reason.into(),
        message: "taskmanager pod x: no".into(),
    };
    let image = json!({"image": "flights:2"});
    let larger = json!({"taskManager": {"resources": {"requests": {"cpu": "100"}}}});
    for (edit, reason, stops) in [
        (&image, "ImagePullBackOff", 0),
        (&image, "CrashLoopBackOff", 0),
        (&image, "Unschedulable", 1),
        (&larger, "Unschedulable", 0),
    ] {
        let mut s = Sim::running(json!({}));
        (s.slotless, s.problems) = (vec![2], vec![problem(reason)]);
        s.edit(edit.clone());
        for _ in 0..40 {
            s.pass();
            s.tick();
        }
        assert_eq!(s.stops().len(), stops, "{reason}");
        assert_eq!(s.condition("Degraded").1, reason);
    }
}

#[test]
fn an_operator_wider_than_the_job_gets_its_slots_before_the_old_generation_is_stopped() {
    let mut s = Sim::running(json!({}));
    s.own_width = (2, 8);
    s.edit(json!({"image": "flights:2"}));
    while s.stops().is_empty() {
        s.pass();
        s.tick();
        assert!(s.now < 1_100_000, "{:#?}", s.stored);
    }
    assert_eq!(s.kids[&2].task_managers, Some(8), "stopped only when the slots were there");
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.generations(), s.stored.parallelism), ("Running", vec![2], 2));
    // the width that it has by itself is neither scaled away nor added to
    for (parallelism, pods) in [(3, 8), (9, 9), (1, 8)] {
        s.edit(json!({"parallelism": parallelism}));
        s.settle();
        assert_eq!((s.stored.parallelism, s.kids[&2].task_managers), (parallelism, Some(pods)));
    }
    assert_eq!(s.condition("Degraded").0, "False");
}

#[test]
fn an_operator_wider_than_the_room_leaves_the_old_generation_running_and_is_named() {
    let mut s = Sim::running(json!({}));
    (s.own_width, s.room) = ((2, 8), 2);
    s.edit(json!({"image": "flights:2"}));
    s.settle();
    for _ in 0..20 {
        s.pass();
        s.tick();
    }
    assert_eq!((s.stops().len(), s.claims().len(), s.generations()), (0, 1, vec![1, 2]));
    assert_eq!(s.condition("Degraded").1, "TooFewSlots");
    assert_eq!(s.stored.message, "generation 2 needs 8 slots and 2 are registered; generation 1 runs on");
    s.edit(json!({"image": "flights:1"}));
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.generations()), ("Running", vec![1]));
    assert_eq!(s.condition("Degraded").0, "False");
}

#[test]
fn too_few_slots_are_named_at_a_first_launch_and_at_a_rescale() {
    let mut s = Sim::new(json!({"parallelism": 4}));
    s.room = 3;
    for _ in 0..6 {
        s.pass();
        s.tick();
    }
    let progress = s.message("Progressing");
    assert!(progress.contains("needs 4 slots and 3 are registered"), "{progress}");
    assert_eq!(s.condition("Degraded").0, "False", "they may be on their way");
    assert!(s.look_again.is_some_and(|t| t <= s.now + 15_000), "it is looked at again, though nothing happens");
    for _ in 0..16 {
        s.pass();
        s.tick();
    }
    let degraded = (s.condition("Degraded").0, s.condition("Degraded").1, s.message("Degraded"));
    let words = "the job needs 4 slots and 3 are registered";
    assert_eq!(degraded, ("True".into(), "TooFewSlots".into(), words.into()));
    s.room = 4;
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.condition("Degraded").0.as_str()), ("Running", "False"));

    s.edit(json!({"parallelism": 6}));
    for _ in 0..20 {
        s.pass();
        s.tick();
    }
    let words = "parallelism 6 needs 6 slots and 4 are registered; the job runs on at parallelism 4";
    assert_eq!((s.condition("Degraded").1, s.message("Degraded")), ("TooFewSlots".into(), words.into()));
    assert_eq!(s.claims().len(), 1);
}

#[test]
fn state_that_does_not_fit_is_named_and_nothing_is_stopped() {
    let mut s = Sim::running(json!({}));
    s.misfits = vec![2];
    s.edit(json!({"image": "flights:2"}));
    s.settle();
    let (status, reason, generation) = s.condition("Degraded");
    assert_eq!((status.as_str(), reason.as_str(), generation), ("True", "Incompatible", Some(2)));
    assert!(s.stored.message.contains("state legs: u64 became text; generation 1 runs on"), "{}", s.stored.message);
    assert_eq!(s.stops().len(), 0);
}

#[test]
fn a_restore_section_that_makes_it_fit_makes_a_new_candidate() {
    let mut s = Sim::running(json!({}));
    s.misfits = vec![2];
    s.edit(json!({"image": "flights:2"}));
    s.settle();
    s.edit(json!({"restore": {"allowNonRestoredState": true}}));
    s.settle();
    assert_eq!((s.generations(), s.stops().len(), s.condition("Ready").0.as_str()), (vec![3], 1, "True"));
}

#[test]
fn a_launch_that_asks_for_too_much_is_mended_by_scaling_down() {
    let mut s = Sim::new(json!({"parallelism": 100}));
    s.slotless = vec![1];
    for _ in 0..5 {
        s.pass();
        s.tick();
    }
    s.edit(json!({"parallelism": 2}));
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.generations(), s.stored.parallelism), ("Running", vec![2], 2));
    assert!(s.notes.contains(&"SavepointImpossible".into()));
}

#[test]
fn a_first_start_from_a_wrong_path_is_mended_by_the_right_one() {
    let mut s = Sim::new(json!({"restore": {"from": "/wrong"}}));
    s.broken = vec![1];
    s.pass();
    s.tick();
    s.edit(json!({"restore": {"from": "/right"}}));
    s.pass();
    let r = s.stored.rollout.as_ref().unwrap();
    assert_eq!((r.to, r.strategy), (2, Strategy::Redeploy));
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.generations()), ("Running", vec![2]));
}

#[test]
fn a_savepoint_that_fails_leaves_the_old_job_running_and_is_tried_again() {
    let mut s = Sim::running(json!({}));
    s.savepoints_fail = 2;
    s.edit(json!({"image": "flights:2"}));
    for _ in 0..10 {
        s.pass();
        s.tick();
    }
    assert!(s.notes.contains(&"SavepointFailed".into()));
    assert_eq!(s.condition("Degraded").1, "SavepointFailed");
    assert!(s.stored.message.contains("disk full"), "{}", s.stored.message);
    assert_eq!(s.claims().len(), 1);
    s.settle();
    assert_eq!((s.stops().len(), s.generations()), (1, vec![2]));
    assert_eq!(s.notes.iter().filter(|n| *n == "SavepointFailed").count(), 2);
}

#[test]
fn last_state_takes_over_from_the_latest_checkpoint_without_a_savepoint() {
    crash_everywhere(
        json!({"upgradeMode": "LastState"}),
        |s| s.edit(json!({"image": "flights:2"})),
        |s, when| {
            assert_eq!(s.stops().len(), 0, "{when}");
            let (generation, restores) = *s.claims().last().unwrap();
            assert!(generation == 2 && restores.is_some(), "{when}");
            assert_eq!(s.generations(), [2], "{when}");
        },
    );
}

#[test]
fn stateless_starts_new_and_only_then() {
    let mut s = Sim::running(json!({"upgradeMode": "Stateless"}));
    s.edit(json!({"image": "flights:2"}));
    s.settle();
    assert_eq!(s.claims().last(), Some(&(2, None)));
}

#[test]
fn without_a_log_the_old_generation_is_gone_before_the_next_starts() {
    crash_everywhere(
        json!({"upgradeMode": "Stateless", "checkpoint": {"storage": null}}),
        |s| s.edit(json!({"image": "flights:2"})),
        |s, when| assert_eq!((s.stored.phase.as_str(), s.generations()), ("Running", vec![2]), "{when}"),
    );
}

#[test]
fn a_rescale_goes_through_the_same_jobmanager_wherever_the_operator_crashes() {
    for (from, to) in [(2i32, 3i32), (3, 2)] {
        let mut s = Sim::running(json!({"parallelism": from}));
        s.edit(json!({"parallelism": to}));
        s.settle();
        assert_eq!((s.stored.parallelism, s.kids[&1].task_managers), (to, Some(to.unsigned_abs())));
    }
    crash_everywhere(
        json!({}),
        |s| s.edit(json!({"parallelism": 3})),
        |s, when| {
            assert_eq!((s.stored.parallelism, s.kids[&1].task_managers), (3, Some(3)), "{when}");
            assert_eq!((s.generations(), s.stops().len()), (vec![1], 0), "{when}");
            assert_eq!((s.claims().len(), s.stored.restarts), (2, 0), "{when}: rescaled once, no restart");
            assert_eq!(s.condition("Ready"), ("True".into(), "Running".into(), Some(2)), "{when}");
        },
    );
}

#[test]
fn a_rescale_waits_for_taskmanagers_that_were_told_to_go_but_not_for_ever() {
    for (there, waits) in [(6_000, 6_000), (600_000, 15_000)] {
        let mut s = Sim::running(json!({"parallelism": 1}));
        // one that a scale down left: its slot is offered still
        s.edit(json!({"parallelism": 2}));
        let began = s.now;
        s.leaving_until = began + there;
        while s.claims().len() == 1 {
            s.pass();
            s.tick();
            assert!(s.now - began < 40_000);
        }
        assert!((waits..waits + 5_000).contains(&(s.now - began)), "{there}: after {} ms", s.now - began);
    }
}

#[test]
fn a_jobmanager_that_came_back_with_its_launch_parallelism_is_rescaled_again() {
    let mut s = Sim::running(json!({}));
    s.edit(json!({"parallelism": 3}));
    s.settle();
    s.kill_manager(1);
    s.settle();
    assert_eq!((s.stored.parallelism, s.stored.phase.as_str()), (3, "Running"));
}

#[test]
fn suspension_and_resumption_survive_a_crash_anywhere() {
    crash_everywhere(
        json!({}),
        |s| {
            s.edit(json!({"state": "Suspended"}));
            s.settle();
            if s.stored.phase.as_str() == "Suspended" {
                assert!(s.generations().is_empty());
                assert_eq!(s.condition("Suspended").0, "True");
            }
            s.edit(json!({"state": "Running"}));
        },
        |s, when| {
            assert_eq!(s.stops().len(), 1, "{when}");
            assert_eq!(s.claims().last(), Some(&(3, Some(s.stops()[0] as u64))), "{when}");
            assert_eq!((s.stored.phase.as_str(), s.generations()), ("Running", vec![3]), "{when}");
        },
    );
}

#[test]
fn deletion_cancels_and_always_finishes_wherever_the_operator_crashes() {
    crash_everywhere(
        json!({}),
        |s| s.delete(),
        |s, when| {
            assert!(!s.finalizer && s.generations().is_empty(), "{when}");
            assert!(s.log.contains(&Entry::Terminal(TerminalStatus::Canceled)), "{when}");
        },
    );
    // in the middle of an upgrade
    for at in 0..25 {
        let mut s = Sim::running(json!({}));
        s.edit(json!({"image": "flights:2"}));
        for _ in 0..at {
            s.pass();
            s.tick();
        }
        s.delete();
        s.settle();
        assert!(!s.finalizer && s.generations().is_empty(), "deleted at {at}");
    }
}

#[test]
fn deletion_of_a_job_that_cannot_be_read_cancels_it_and_finishes_wherever_the_operator_crashes() {
    for n in 0..20 {
        let mut s = Sim::running(json!({}));
        s.unreadable = true;
        s.delete();
        s.crash_in(n);
        s.settle();
        assert!(!s.finalizer && s.generations().is_empty(), "crash at point {n}");
        let ends = s.log.iter().filter(|e| matches!(e, Entry::Terminal(TerminalStatus::Canceled))).count();
        assert_eq!(ends, 1, "crash at point {n}");
    }
    let mut s = Sim::running(json!({}));
    s.unreadable = true;
    s.settle();
    assert_eq!((s.finalizer, s.generations()), (true, vec![1]), "what runs is left alone");
    s.delete();
    s.settle();
    assert!(s.notes.contains(&"the job was cancelled; kept: /c/kept".into()), "{:?}", s.notes);
    // in the middle of an upgrade
    for at in 0..25 {
        let mut s = Sim::running(json!({}));
        s.edit(json!({"image": "flights:2"}));
        for _ in 0..at {
            s.pass();
            s.tick();
        }
        s.unreadable = true;
        s.delete();
        s.settle();
        assert!(!s.finalizer && s.generations().is_empty(), "deleted at {at}");
        assert!(matches!(s.log.last(), Some(Entry::Terminal(_))), "deleted at {at}: {:?}", s.log);
    }
}

#[test]
fn deletion_of_a_job_that_cannot_be_read_waits_for_nobody_for_ever() {
    let mut s = Sim::running(json!({}));
    s.broken = vec![1];
    s.kill_manager(1);
    s.unreadable = true;
    s.delete();
    let asked = s.now;
    s.settle();
    assert!(!s.finalizer && s.now - asked < 75_000);
    assert!(s.notes.contains(&"no jobmanager cancelled the job; its snapshots stay where they are".into()));
    // its pods hang
    let mut s = Sim::running(json!({}));
    s.hangs = vec![1];
    s.unreadable = true;
    s.delete();
    let asked = s.now;
    s.settle();
    assert!(!s.finalizer && (45_000..=80_000).contains(&(s.now - asked)), "{}", s.now - asked);
}

#[test]
fn deletion_of_a_job_that_never_ran_finishes() {
    let mut s = Sim::new(json!({}));
    s.broken = vec![1];
    s.pass();
    s.delete();
    s.settle();
    assert!(!s.finalizer);
    let mut s = Sim::new(json!({}));
    s.delete();
    s.settle();
    assert!(!s.finalizer);
}

#[test]
fn a_finished_job_gives_its_pods_back_and_is_not_run_again_by_an_upgrade() {
    let mut s = Sim::running(json!({}));
    s.finishes_at = Some(s.log.len() + 3);
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.generations()), ("Finished", vec![]));
    s.finishes_at = None;
    s.edit(json!({"image": "flights:2"}));
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.claims().len()), ("Finished", 1));
    assert!(s.stored.message.contains("restartNonce"), "{}", s.stored.message);
    s.edit(json!({"restartNonce": 1}));
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.generations()), ("Running", vec![3]));
}

#[test]
fn a_job_that_finishes_in_the_middle_of_an_upgrade_is_finished() {
    for after in 0..12 {
        let mut s = Sim::running(json!({}));
        s.finishes_at = Some(s.log.len() + after);
        s.edit(json!({"image": "flights:2"}));
        s.settle();
        assert_eq!((s.stored.phase.as_str(), s.generations()), ("Finished", vec![]), "after {after}: {:?}", s.log);
    }
}

#[test]
fn a_job_that_finishes_unseen_is_not_run_a_second_time() {
    let mut s = Sim::running(json!({"upgradeMode": "LastState"}));
    s.finishes_unseen = true;
    s.edit(json!({"image": "flights:2"}));
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.claims().len(), s.generations()), ("Finished", 1, vec![]));
    // on the way to a suspension
    let mut s = Sim::running(json!({"upgradeMode": "LastState"}));
    s.edit(json!({"state": "Suspended"}));
    s.settle();
    s.log.push(Entry::Terminal(TerminalStatus::Finished));
    s.edit(json!({"state": "Running"}));
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.claims().len(), s.generations()), ("Finished", 1, vec![]));
    // the candidate has read it first
    let mut s = Sim::running(json!({}));
    s.edit(json!({"image": "flights:2"}));
    while s.stored.rollout.as_ref().is_none_or(|r| r.step != Step::Preparing) {
        s.pass();
    }
    s.log.push(Entry::Terminal(TerminalStatus::Finished));
    s.broken = vec![1];
    for _ in 0..5 {
        s.kill_manager(1);
        s.tick();
        s.pass();
    }
    s.settle();
    assert!(!s.notes.contains(&"SavepointImpossible".into()), "{:?}", s.notes);
    assert_eq!((s.stored.phase.as_str(), s.claims().len()), ("Finished", 1));
}

#[test]
fn a_second_change_does_not_forget_that_the_first_was_to_start_elsewhere() {
    let step = |s: &Sim| s.stored.rollout.as_ref().map(|r| r.step);
    let strategy = |s: &Sim| s.stored.rollout.as_ref().map(|r| (r.strategy, r.shares_log));
    // another storage: nothing fences the generation that runs, so nobody starts before it is gone
    let mut s = Sim::running(json!({}));
    s.hangs = vec![1];
    s.edit(json!({"checkpoint": {"storage": "file:///d"}, "restore": {"from": "/c/s"}}));
    while step(&s) != Some(Step::Starting) {
        s.pass();
        s.tick();
    }
    s.edit(json!({"image": "flights:3"}));
    for _ in 0..60 {
        s.pass();
        s.tick();
        assert_eq!(strategy(&s), Some((Strategy::Redeploy, false)));
        assert_eq!(s.claims().len(), 1, "{:?}", s.log);
    }
    s.hangs.clear();
    s.settle();
    assert_eq!((s.stored.phase.as_str(), s.generations(), s.claims().len()), ("Running", vec![3], 2));

    // the same log, and back behind what it knows: the operator dies when it has just decided to start
    let overtaken = |over: serde_json::Value| {
        let mut s = Sim::running(json!({}));
        s.edit(json!({"restore": {"from": "/c/s", "nonce": 1}}));
        while step(&s) != Some(Step::Warming) {
            s.pass();
            s.tick();
        }
        for _ in 0..20 {
            if step(&s) == Some(Step::Starting) {
                break;
            }
            s.crash_in(1);
            s.pass();
            s.tick();
        }
        s.kill_manager(2);
        s.broken = vec![2];
        s.edit(over);
        s.pass();
        s
    };
    let s = overtaken(json!({"image": "flights:3"}));
    assert_eq!(strategy(&s), Some((Strategy::Redeploy, false)));
    let mut s = overtaken(json!({"state": "Suspended"}));
    s.settle();
    assert_eq!(s.stored.phase.as_str(), "Suspended");
    s.edit(json!({"state": "Running"}));
    s.pass();
    assert_eq!(strategy(&s), Some((Strategy::Redeploy, true)));
}

#[test]
fn what_runs_is_not_stopped_for_a_candidate_that_is_gone_again() {
    let mut s = Sim::running(json!({}));
    s.slotless = vec![2];
    s.edit(json!({"image": "flights:2"}));
    while s.stored.rollout.as_ref().is_none_or(|r| r.step != Step::Warming) {
        s.pass();
        s.tick();
    }
    s.broken = vec![2];
    s.kill_manager(2);
    s.slotless.clear();
    for _ in 0..60 {
        s.pass();
        s.tick();
    }
    assert_eq!((s.stops().len(), s.claims().len(), s.stored.phase.as_str()), (0, 1, "Upgrading"), "{:?}", s.log);
    s.broken.clear();
    s.settle();
    assert_eq!((s.stops().len(), s.generations(), s.stored.phase.as_str()), (1, vec![2], "Running"));
}

#[test]
fn a_start_that_was_refused_is_asked_for_again_after_a_while() {
    let mut s = Sim::running(json!({}));
    s.edit(json!({"image": "flights:2"}));
    while s.stops().is_empty() {
        s.pass();
        s.tick();
    }
    s.log.push(Entry::Completed);
    for _ in 0..10 {
        s.pass();
    }
    assert_eq!((s.starts, s.claims().len()), (1, 1));
    let again = s.look_again.unwrap();
    assert!(again > s.now);
    while s.now < again {
        s.tick();
    }
    s.pass();
    assert_eq!(s.starts, 2);
}

#[test]
fn an_invalid_spec_changes_nothing_and_is_named() {
    let mut s = Sim::running(json!({}));
    s.edit(json!({"image": "flights:2"}));
    s.invalid = Some("spec.taskManager.podTemplate is not a pod template".into());
    s.settle();
    assert_eq!((s.generations(), s.claims().len()), (vec![1], 1));
    let ready = s.condition("Ready");
    assert_eq!((ready.0.as_str(), ready.1.as_str(), ready.2), ("False", "InvalidSpec", Some(2)));
    s.kill_manager(1);
    s.settle();
    assert_eq!(s.stored.phase.as_str(), "Running");
}

#[test]
fn an_ignored_change_is_ready_at_once_and_touches_nothing() {
    let mut s = Sim::running(json!({}));
    s.edit(json!({"upgradeMode": "LastState"}));
    s.pass();
    assert_eq!(s.condition("Ready"), ("True".into(), "Running".into(), Some(2)));
    assert_eq!((s.generations(), s.claims().len()), (vec![1], 1));
}

#[test]
fn a_suspended_job_keeps_its_savepoint_and_finishes_its_deletion() {
    for (retention, reach) in [
        ("RetainOnCancellation", ""),
        (
            "DeleteOnCancellation",
            "; retention DeleteOnCancellation does not reach a suspended job: to start new, remove file:///c/ns/job",
        ),
    ] {
        let mut s = Sim::running(json!({"checkpoint": {"retention": retention}}));
        s.edit(json!({"state": "Suspended"}));
        s.settle();
        let savepoint = format!("/c/{}", s.stops()[0]);
        assert_eq!(s.stored.deployed.as_ref().unwrap().suspended.as_ref().unwrap().path, savepoint);
        s.delete();
        s.settle();
        assert!(!s.finalizer);
        let kept = &s.stored.deletion.as_ref().unwrap().kept;
        let words = "from which a StreamJob of this name goes on";
        assert_eq!(*kept, format!("the job was suspended; kept: savepoint {savepoint}, {words}{reach}"));
    }
}

#[test]
fn an_operator_that_knows_nothing_yet_does_not_call_a_new_spec_ready() {
    let mut s = Sim::running(json!({}));
    assert_eq!(s.condition("Ready").0, "True");
    s.kill_manager(1);
    s.edit(json!({"parallelism": 3}));
    s.pass();
    assert_ne!((s.condition("Ready").0, s.condition("Ready").2), ("True".to_owned(), Some(2)));
}

#[test]
fn a_suspended_job_whose_log_knows_nothing_starts_from_where_its_owner_says() {
    let elsewhere = || json!({"checkpoint": {"storage": "file:///d"}, "restore": {"from": "/c/s"}, "state": "Running"});
    let strategy = |s: &Sim| s.stored.rollout.as_ref().map(|r| r.strategy);
    let mut s = Sim::running(json!({}));
    s.edit(json!({"state": "Suspended"}));
    s.settle();
    s.edit(elsewhere());
    s.pass();
    assert_eq!(strategy(&s), Some(Strategy::Redeploy));
    // one that never ran
    let mut s = Sim::new(json!({"restore": {"from": "/c/s"}}));
    s.broken = vec![1];
    s.pass();
    s.edit(json!({"state": "Suspended"}));
    s.settle();
    s.edit(json!({"image": "mended", "state": "Running"}));
    s.pass();
    assert_eq!(strategy(&s), Some(Strategy::Redeploy));
    // in the same one the log knows better
    let mut s = Sim::running(json!({}));
    s.edit(json!({"state": "Suspended"}));
    s.settle();
    s.edit(json!({"restore": {"from": "/c/s"}, "state": "Running"}));
    s.pass();
    assert_eq!(strategy(&s), Some(Strategy::LastState));
}

#[test]
fn deletion_of_a_job_that_had_ended_says_what_its_end_kept() {
    for (kept, says) in [(vec![], "no snapshot was kept"), (vec!["/c/kept".to_owned()], "kept: /c/kept")] {
        let mut s = Sim::running(json!({"checkpoint": {"retention": "DeleteOnCancellation"}}));
        s.finishes_at = Some(s.log.len() + 1);
        s.kept = kept;
        s.settle();
        assert_eq!(s.stored.phase.as_str(), "Finished");
        s.delete();
        s.settle();
        assert!(!s.finalizer);
        assert_eq!(s.stored.deletion.as_ref().unwrap().kept, format!("the job had ended (Finished); {says}"));
    }
}
