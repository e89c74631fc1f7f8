//! The operator behind windowed streams: hands batches and clocks to the engine that suits windows and trigger.
use super::aligned::{AlignedEngine, Times};
use super::assigner::{CountSpec, TimeDomain, Windows};
use super::count::CountEngine;
use super::function::WindowFunction;
use super::late::Late;
use super::session::SessionEngine;
use super::slot::Clocks;
use super::trigger::Trigger;
use super::triggered::TriggeredEngine;
use crate::dataflow::{AnySideOutput, Batch, Clock, Output, OutputTag};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::key_group_range;
use crate::job::function::{KeySelector, RuntimeContext};
use crate::job::keyed_stages::KeyedOperator;
use crate::job::stored::want;
use crate::observe::TaskMetrics;
use crate::state::{KeyGroupMark, KeyedTable};

/// Names of the states.
pub(super) const WINDOWS: &str = "windows";
pub(super) const REACHED: &str = "reached";

/// Which windows, and what is said about late records.
pub(super) enum Spec {
    /// With the allowed lateness in ms.
    Time(Windows, i64),
    Count(CountSpec),
}

enum Engine<W: WindowFunction, G: Trigger<W::In>> {
    Aligned(AlignedEngine<W>),
    Triggered(TriggeredEngine<W, G>),
    Session(SessionEngine<W, G>),
    Count(CountEngine<W>),
}

pub(super) struct WindowOperator<S, W: WindowFunction, G: Trigger<W::In>> {
    selector: S,
    function: W,
    /// What the windows go by.
    time: TimeDomain,
    /// The windows need the records' timestamps.
    timed: bool,
    engine: Engine<W, G>,
    /// How far the time that the windows go by had come at the snapshot: what had fired then follows from it. None at the
    /// end of time: nothing is left then, and what a later job reads would all be late.
    reached: KeyGroupMark,
    late: Late<W::In>,
    /// Time has come so far, and not all has fired that is due then.
    advancing: Option<(TimeDomain, i64)>,
    clock: Clock,
    /// The windows go by the clock, or a trigger might.
    needs_clock: bool,
    /// Processing time: this ms and those before it are over.
    passed: i64,
    metrics: TaskMetrics,
    name: String,
}

impl<S, W: WindowFunction, G: Trigger<W::In>> WindowOperator<S, W, G> {
    pub fn new(selector: S, function: W, trigger: G, spec: &Spec, late: Option<OutputTag<W::In>>) -> Self {
        Self::with_late(selector, function, trigger, spec, Late::new(late))
    }

    pub fn with_late(selector: S, mut function: W, trigger: G, spec: &Spec, late: Late<W::In>) -> Self {
        let (time, timed, engine) = match *spec {
            Spec::Count(count) => (TimeDomain::EventTime, false, Engine::Count(CountEngine::new(WINDOWS, count))),
            Spec::Time(Windows::Global, lateness) => {
                let time = TimeDomain::EventTime;
                (time, false, Engine::Triggered(TriggeredEngine::new(WINDOWS, None, time, lateness, trigger)))
            }
            Spec::Time(Windows::Session { gap, time }, lateness) => {
                (time, true, Engine::Session(SessionEngine::new(WINDOWS, gap, time, lateness, trigger)))
            }
            Spec::Time(Windows::Aligned(windows, time), lateness) => {
                function.lives(windows, lateness);
                let engine = if trigger.at_end_of_window() == Some(time) {
                    Engine::Aligned(AlignedEngine::new(WINDOWS, windows, lateness))
                } else {
                    Engine::Triggered(TriggeredEngine::new(WINDOWS, Some(windows), time, lateness, trigger))
                };
                (time, true, engine)
            }
        };
        let needs_clock = match engine {
            Engine::Aligned(_) => time == TimeDomain::ProcessingTime,
            Engine::Triggered(_) | Engine::Session(_) => true,
            Engine::Count(_) => false,
        };
        Self {
            selector,
            function,
            time,
            timed: timed && time == TimeDomain::EventTime,
            engine,
            reached: KeyGroupMark::new(REACHED),
            late,
            advancing: None,
            clock: Clock::system(),
            needs_clock,
            passed: i64::MIN,
            metrics: TaskMetrics::default(),
            name: String::new(),
        }
    }

    /// Takes the late records, if they are kept.
    pub fn late(&mut self) -> impl Iterator<Item = (W::In, i64)> {
        self.late.kept()
    }

    fn advance_processing(&mut self, passed: i64, out: &mut Output<W::Out>) -> Result<()> {
        // the clock may have been set back: time goes on from where it was
        self.passed = self.passed.max(passed);
        let passed = self.passed;
        if self.time == TimeDomain::ProcessingTime {
            self.reached.set(Some(passed).filter(|&t| t < i64::MAX));
        }
        self.advance(TimeDomain::ProcessingTime, passed, out)
    }

    /// Time has come so far: fires what is due, or a part of it, with [`Self::advancing`] set.
    fn advance(&mut self, domain: TimeDomain, to: i64, out: &mut Output<W::Out>) -> Result<()> {
        let f = &self.function;
        let more = match (&mut self.engine, domain) {
            (Engine::Aligned(e), _) if self.time == domain => e.advance(to, f, out)?,
            (Engine::Aligned(_) | Engine::Count(_), _) => false,
            (Engine::Triggered(e), TimeDomain::EventTime) => e.advance_watermark(to, f, out)?,
            (Engine::Triggered(e), TimeDomain::ProcessingTime) => e.advance_processing(to, f, out)?,
            (Engine::Session(e), TimeDomain::EventTime) => e.advance_watermark(to, f, out)?,
            (Engine::Session(e), TimeDomain::ProcessingTime) => e.advance_processing(to, f, out)?,
        };
        self.advancing = more.then_some((domain, to));
        self.function.check()?;
        if !more && self.time == domain { self.function.expire(to) } else { Ok(()) }
    }

    fn go_on(&mut self, out: &mut Output<W::Out>) -> Result<()> {
        match self.advancing {
            Some((domain, to)) => self.advance(domain, to, out),
            None => Ok(()),
        }
    }

    /// Entries of the schedules, live or not.
    #[cfg(test)]
    pub fn scheduled(&self) -> usize {
        match &self.engine {
            Engine::Aligned(_) | Engine::Count(_) => 0,
            Engine::Triggered(e) => e.scheduled(),
            Engine::Session(e) => e.scheduled(),
        }
    }

    fn finish(&mut self, out: &mut Output<W::Out>) -> Result<()> {
        while self.advancing.is_some() {
            self.go_on(out)?;
        }
        Ok(())
    }
}

impl<S, W, G> WindowOperator<S, W, G>
where
    W: WindowFunction,
    S: KeySelector<W::In, Key = W::Key>,
    G: Trigger<W::In>,
{
    fn add(&mut self, batch: &mut Batch<W::In>, times: Times<'_>, out: &mut Output<W::Out>) -> Result<()> {
        let Self { selector, function, late, .. } = self;
        match &mut self.engine {
            Engine::Aligned(e) => e.run(selector, function, batch, times, out, late)?,
            Engine::Triggered(e) => e.run(selector, function, batch, times.iter(), out, late)?,
            Engine::Session(e) => e.run(selector, function, batch, times.iter(), out, late)?,
            Engine::Count(e) => e.run(selector, function, batch, times.iter(), out),
        }
        Ok(())
    }
}

impl<S, W, G> KeyedOperator<W::In> for WindowOperator<S, W, G>
where
    W: WindowFunction,
    S: KeySelector<W::In, Key = W::Key>,
    G: Trigger<W::In>,
{
    type Key = W::Key;
    type Out = W::Out;
    /// Engines of windows in time ask for what they use when they know the time.
    const PREPARES: bool = true;

    fn prepare(&mut self, batch: &Batch<W::In>) -> Result<()> {
        match &mut self.engine {
            Engine::Count(e) => want(batch, &self.selector, &mut [e.state()]),
            Engine::Aligned(_) | Engine::Triggered(_) | Engine::Session(_) => Ok(()),
        }
    }

    fn states(&mut self) -> Vec<&mut dyn KeyedTable<W::Key>> {
        let mut states: Vec<&mut dyn KeyedTable<W::Key>> = match &mut self.engine {
            Engine::Aligned(e) => vec![e.state(), &mut self.reached],
            Engine::Triggered(e) => vec![e.state(), &mut self.reached],
            Engine::Session(e) => vec![e.state(), &mut self.reached],
            Engine::Count(e) => vec![e.state()],
        };
        states.extend(self.function.states());
        states
    }

    /// Those of the function are used where windows fire, for keys that no batch has announced.
    fn storable(&self) -> usize {
        match self.engine {
            Engine::Aligned(_) | Engine::Triggered(_) | Engine::Session(_) => 2,
            Engine::Count(_) => 1,
        }
    }

    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        let late = self.late.side_output().map(|s| s as &mut dyn AnySideOutput);
        late.into_iter().chain(self.function.side_outputs()).collect()
    }

    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        self.clock = cx.clock.clone();
        self.metrics = cx.metrics.clone();
        self.name.clone_from(&cx.operator);
        let groups = key_group_range(cx.subtask, cx.parallelism, cx.max_parallelism);
        match &mut self.engine {
            Engine::Aligned(e) => e.own(groups.clone()),
            Engine::Triggered(e) => e.own(groups.clone()),
            Engine::Session(e) => e.own(groups.clone()),
            Engine::Count(_) => {}
        }
        let marks = self.reached.own(groups, cx.max_parallelism);
        self.passed = self.clock.now_ms().saturating_sub(1);
        let (reached, most) = (marks.least, marks.most);
        let by_clock = self.time == TimeDomain::ProcessingTime;
        let clocks = Clocks {
            watermark: if by_clock { i64::MIN } else { reached },
            processing: if by_clock { reached } else { self.passed },
        };
        match &mut self.engine {
            Engine::Aligned(e) => e.restored(marks),
            Engine::Triggered(e) => e.restored(clocks, marks)?,
            Engine::Session(e) => e.restored(clocks, marks)?,
            Engine::Count(_) => {}
        }
        if by_clock {
            // from where it was for any key group
            self.passed = self.passed.max(most);
        }
        self.function.open(cx)
    }

    fn run(&mut self, batch: &mut Batch<W::In>, out: &mut Output<W::Out>) -> Result<()> {
        let timestamps = std::mem::take(&mut batch.timestamps);
        if self.needs_clock {
            self.advance_processing(self.clock.now_ms().saturating_sub(1), out)?;
            self.finish(out)?;
        }
        if self.time == TimeDomain::ProcessingTime {
            self.add(batch, Times::All(self.passed.saturating_add(1)), out)?;
        } else if timestamps.len() == batch.records.len() {
            self.add(batch, Times::Each(&timestamps), out)?;
        } else if self.timed && !batch.is_empty() {
            return Err(Error::user(
                ErrorCode::Graph,
                format!(
                    "{}: windows of event time need records with timestamps: declare event time with Stream::watermarks before, or use windows of processing_time()",
                    self.name
                ),
            ));
        } else {
            self.add(batch, Times::All(i64::MIN), out)?;
        }
        batch.timestamps = timestamps;
        self.late.count(&self.metrics);
        self.function.check()
    }

    fn on_watermark(&mut self, watermark: i64, out: &mut Output<W::Out>) -> Result<()> {
        if self.time == TimeDomain::EventTime {
            let reached = self.reached.get().map_or(watermark, |w| w.max(watermark));
            self.reached.set(Some(reached).filter(|&t| t < i64::MAX));
        }
        self.advance(TimeDomain::EventTime, watermark, out)
    }

    fn is_busy(&self) -> bool {
        self.advancing.is_some()
    }

    fn go_on(&mut self, out: &mut Output<W::Out>) -> Result<()> {
        Self::go_on(self, out)
    }

    fn next_processing_time(&mut self) -> Option<i64> {
        let due = match &self.engine {
            Engine::Aligned(e) if self.time == TimeDomain::ProcessingTime => Some(e.due()).filter(|&t| t < i64::MAX),
            Engine::Aligned(_) | Engine::Count(_) => None,
            Engine::Triggered(e) => e.processing_due(),
            Engine::Session(e) => e.processing_due(),
        };
        due.map(|t| t.saturating_add(1))
    }

    fn on_processing_time(&mut self, now: i64, out: &mut Output<W::Out>) -> Result<()> {
        self.advance_processing(now.saturating_sub(1), out)
    }

    /// Windows of processing time fire as they are: nobody waits for the clock when nothing more can come.
    fn end_of_input(&mut self, out: &mut Output<W::Out>) -> Result<()> {
        if self.time == TimeDomain::ProcessingTime {
            self.advance_processing(i64::MAX, out)?;
            self.finish(out)?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.function.close()
    }
}
