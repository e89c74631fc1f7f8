//! Windows the naive way: every window of every key with all its values, looked through at every step.
use super::driver::{Fired, Rec};
use crate::job::window::trigger::{Trigger, TriggerContext, TriggerResult, TriggerTimers};
use crate::job::window::{TimeDomain, TimeWindow};

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Aligned { size: i64, slide: i64, offset: i64 },
    Session { gap: i64 },
    Global,
}

struct Window<S> {
    key: u64,
    window: TimeWindow,
    values: Vec<i64>,
    state: S,
    timers: TriggerTimers,
    /// Its timer was set as time went on, for a time that had come.
    waits: bool,
}

pub struct Oracle<G: Trigger<Rec>> {
    pub kind: Kind,
    pub time: TimeDomain,
    pub lateness: i64,
    pub trigger: G,
    watermark: i64,
    processing: i64,
    windows: Vec<Window<G::State>>,
    fired: Vec<Fired>,
    late: Vec<(Rec, i64)>,
}

impl<G: Trigger<Rec>> Oracle<G> {
    pub fn new(kind: Kind, time: TimeDomain, lateness: i64, trigger: G) -> Self {
        let (watermark, processing) = (i64::MIN, i64::MIN);
        Self { kind, time, lateness, trigger, watermark, processing, windows: vec![], fired: vec![], late: vec![] }
    }

    fn now(&self) -> i64 {
        if self.time == TimeDomain::EventTime { self.watermark } else { self.processing }
    }
    fn gone(&self, w: &TimeWindow) -> bool {
        w.max_timestamp().saturating_add(self.lateness) <= self.now()
    }

    fn windows_of(&self, t: i64) -> Vec<TimeWindow> {
        match self.kind {
            Kind::Aligned { size, slide, offset } => (t - size + 1..=t)
                .filter(|s| (s - offset).rem_euclid(slide) == 0)
                .map(|start| TimeWindow { start, end: start + size })
                .collect(),
            Kind::Session { gap } => vec![TimeWindow { start: t, end: t + gap }],
            Kind::Global => vec![TimeWindow::ALL],
        }
    }

    pub fn record(&mut self, record: Rec, t: i64) {
        let windows = self.windows_of(t);
        let mut taken = windows.is_empty();
        for mut window in windows {
            if matches!(self.kind, Kind::Session { .. }) {
                // grows by each session that it touches, until it touches none
                while let Some(w) = self
                    .windows
                    .iter()
                    .find(|w| w.key == record.0 && w.window.touches(&window) && window.cover(&w.window) != window)
                {
                    window = window.cover(&w.window);
                }
            }
            if self.gone(&window) {
                continue;
            }
            taken = true;
            let at = self.slot(record.0, window);
            let w = &mut self.windows[at];
            w.values.push(record.1);
            let mut cx = TriggerContext {
                window,
                watermark: self.watermark,
                processing_time: self.processing,
                state: &mut w.state,
                timers: &mut w.timers,
            };
            let result = self.trigger.on_element(&record, t, &mut cx);
            self.act(at, result, t);
        }
        if !taken {
            self.late.push((record, t));
        }
    }

    /// The window's place; sessions within it are merged into it.
    fn slot(&mut self, key: u64, window: TimeWindow) -> usize {
        let within = |w: &Window<G::State>| w.key == key && w.window.cover(&window) == window;
        let mut parts: Vec<_> = self.windows.extract_if(.., |w| within(w)).collect();
        parts.sort_by_key(|w| w.window);
        let mut parts = parts.into_iter();
        let mut merged = parts.next().unwrap_or(Window {
            key,
            window,
            values: vec![],
            state: G::State::default(),
            timers: TriggerTimers::default(),
            waits: false,
        });
        merged.window = window;
        for p in parts {
            merged.values.extend(p.values);
            merged.timers.event = merged.timers.event.into_iter().chain(p.timers.event).min();
            merged.timers.processing = merged.timers.processing.into_iter().chain(p.timers.processing).min();
            let mut cx = TriggerContext {
                window,
                watermark: self.watermark,
                processing_time: self.processing,
                state: &mut merged.state,
                timers: &mut merged.timers,
            };
            self.trigger.on_merge(p.state, &mut cx);
        }
        self.windows.push(merged);
        self.windows.len() - 1
    }

    fn act(&mut self, at: usize, result: TriggerResult, time: i64) {
        let w = &mut self.windows[at];
        if result.fires() && !w.values.is_empty() {
            let mut values = w.values.clone();
            values.sort_unstable();
            let t = if w.window == TimeWindow::ALL { time } else { w.window.max_timestamp() };
            self.fired.push((w.key, w.window.start, w.window.end, values, t));
        }
        if result.purges() {
            w.values.clear();
        }
    }

    pub fn watermark(&mut self, watermark: i64) {
        self.watermark = self.watermark.max(watermark);
        self.timers(TimeDomain::EventTime);
    }
    /// This ms is over.
    pub fn processing(&mut self, passed: i64) {
        self.processing = self.processing.max(passed);
        self.timers(TimeDomain::ProcessingTime);
    }

    fn timers(&mut self, domain: TimeDomain) {
        self.windows.iter_mut().for_each(|w| w.waits = false);
        let end = i64::MAX == if domain == TimeDomain::EventTime { self.watermark } else { self.processing };
        loop {
            let due = |w: &Window<G::State>| {
                let cleanup = w.window.max_timestamp().saturating_add(self.lateness);
                let cleanup = if self.time == domain { cleanup } else { i64::MAX };
                if w.waits {
                    return None;
                }
                match domain {
                    TimeDomain::EventTime => w.timers.event.filter(|&t| t <= self.watermark && t <= cleanup),
                    TimeDomain::ProcessingTime => w.timers.processing.filter(|&t| t <= self.processing && t <= cleanup),
                }
            };
            let Some((at, t)) = self.windows.iter().enumerate().find_map(|(i, w)| Some((i, due(w)?))) else { break };
            let w = &mut self.windows[at];
            let mut cx = TriggerContext {
                window: w.window,
                watermark: self.watermark,
                processing_time: self.processing,
                state: &mut w.state,
                timers: &mut w.timers,
            };
            let result = match domain {
                TimeDomain::EventTime => {
                    cx.timers.event = None;
                    self.trigger.on_event_time(t, &mut cx)
                }
                TimeDomain::ProcessingTime => {
                    cx.timers.processing = None;
                    self.trigger.on_processing_time(t, &mut cx)
                }
            };
            let again = if domain == TimeDomain::EventTime { cx.timers.event } else { cx.timers.processing };
            w.waits = again.is_some_and(|again| end || again <= t);
            self.act(at, result, t);
        }
        let now = self.now();
        let lateness = self.lateness;
        self.windows.retain(|w| w.window.max_timestamp().saturating_add(lateness) > now);
    }

    pub fn take(&mut self) -> (Vec<Fired>, Vec<(Rec, i64)>) {
        self.fired.sort_unstable();
        self.late.sort_unstable();
        (std::mem::take(&mut self.fired), std::mem::take(&mut self.late))
    }
}
