//! Alerts where a device does what its state does not allow. See README.md beside this file.
use std::process::ExitCode;
use weir::prelude::*;

/// A line of the input: what a device did.
#[derive(Clone, Debug, Record, Deserialize)]
struct Event {
    device: u64,
    did: Did,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Record, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Did {
    Boot,
    Login,
    Update,
    Work,
    Logout,
    Shutdown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Record, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    Off,
    Booted,
    Updating,
    LoggedIn,
}

/// A line of the output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Record, Serialize)]
struct Alert {
    device: u64,
    state: State,
    did: Did,
}

impl State {
    /// The state after this; none where it is not allowed.
    fn after(self, did: Did) -> Option<Self> {
        use Did::*;
        use State::*;
        match (self, did) {
            (Off, Boot) => Some(Booted),
            (Booted, Login) => Some(LoggedIn),
            (Booted, Update) => Some(Updating),
            (Updating, Boot) => Some(Booted),
            (LoggedIn, Work) => Some(LoggedIn),
            (LoggedIn, Logout) => Some(Booted),
            (Booted | LoggedIn, Shutdown) => Some(Off),
            _ => None,
        }
    }
}

/// Keeps the state of each device that is not off.
struct Machine(ValueState<u64, State>);

impl KeyedProcessFunction for Machine {
    type Key = u64;
    type In = Event;
    type Out = Alert;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.0]
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, event: &Event, out: &mut Output<Alert>) -> Result<()> {
        let state = self.0.get(key).copied().unwrap_or_default();
        match state.after(event.did) {
            Some(State::Off) => self.0.clear(key),
            Some(next) => self.0.update(key, next),
            None => out.push(Alert { device: event.device, state, did: event.did }),
        }
        Ok(())
    }
}

fn alerts(events: &Stream<Event>) -> Stream<Alert> {
    events.key_by(|e| &e.device).process_function("machine", || Machine(ValueState::new("state")))
}

/// The job's own arguments.
#[derive(clap::Args)]
struct Arguments {
    /// CSV file with the columns device, did; plain or compressed. Without it events are made up.
    #[arg(long)]
    input: Option<String>,
    /// Folder for the output: part-* files of JSON lines.
    #[arg(long)]
    output: String,
    /// Events to make up.
    #[arg(long, default_value_t = 10_000_000)]
    count: u64,
}

/// A multiple of the 60 parts that a generator is cut into by a snapshot: the events of a device stay in one, and in order.
const DEVICES: u64 = 1200;

/// Event number `i`, made up: each device works through its days, and one event in a thousand is another than it should be.
fn event(i: u64) -> Event {
    use Did::*;
    const DAYS: [[Did; 6]; 2] =
        [[Boot, Login, Work, Work, Logout, Shutdown], [Boot, Update, Boot, Login, Work, Shutdown]];
    let (device, step) = (i % DEVICES, i / DEVICES);
    let day = weir::connectors::random(device, step / 6) % 2;
    let did = DAYS[day as usize][(step % 6) as usize];
    let r = weir::connectors::random(2, i);
    let did = if r.is_multiple_of(1000) {
        [Boot, Login, Update, Work, Logout, Shutdown][(r >> 32) as usize % 6]
    } else {
        did
    };
    Event { device, did }
}

fn state_machine(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    let events = match &args.input {
        Some(file) => job.source("events", FileSource::csv::<Event>(file)),
        None => job.source("events", Generator::new(args.count, event)).parallelism(1),
    };
    alerts(&events).sink("out", FileSink::json_lines(&args.output));
    Ok(())
}

fn main() -> ExitCode {
    weir::main(state_machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use weir::connectors::Collect;
    use weir::testing::{Cluster, OperatorHarness, TestSource};

    #[test]
    fn what_a_state_does_not_allow_is_an_alert_and_changes_nothing() {
        let mut h = OperatorHarness::new(|events: Stream<Event>| alerts(&events)).unwrap();
        for did in [Did::Boot, Did::Work, Did::Login, Did::Work, Did::Boot] {
            h.push(Event { device: 7, did }).unwrap();
        }
        let alert = |state, did| Alert { device: 7, state, did };
        assert_eq!(h.output().unwrap(), [alert(State::Booted, Did::Work), alert(State::LoggedIn, Did::Boot)]);
        let state = |h: &mut OperatorHarness<Event, Alert>| {
            let state = h.state("machine", ValueState::<u64, State>::new("state")).unwrap();
            state.get(&KeyRef::of(&7)).copied()
        };
        assert_eq!(state(&mut h), Some(State::LoggedIn));
        h.push(Event { device: 7, did: Did::Shutdown }).unwrap();
        assert_eq!(state(&mut h), None, "nothing is kept of a device that is off");
    }

    #[test]
    fn the_alerts_are_those_of_a_naive_run_also_when_tasks_fail_and_the_job_is_rescaled() {
        const COUNT: u64 = 30_000;
        let mut states = HashMap::<u64, State>::new();
        let mut expected = Vec::new();
        for Event { device, did } in (0..COUNT).map(event) {
            let state = states.entry(device).or_default();
            match state.after(did) {
                Some(next) => *state = next,
                None => expected.push(Alert { device, state: *state, did }),
            }
        }
        assert!(expected.len() > 10, "{}", expected.len());
        let (events, out) = (TestSource::new(), Collect::new());
        let (from, to) = (events.clone(), out.clone());
        let mut cluster = Cluster::of(1, move |job| {
            alerts(&job.source("events", from.clone())).sink("out", to.clone());
        })
        .unwrap();
        (0..COUNT / 2).for_each(|i| events.push(event(i)));
        events.wait_until_read().unwrap();
        cluster.checkpoint().unwrap();
        (COUNT / 2..COUNT).for_each(|i| events.push(event(i)));
        cluster.fail_task("machine", 0).unwrap();
        cluster.checkpoint().unwrap();
        cluster.restart(3).unwrap();
        events.end();
        cluster.finish().unwrap();
        let mut found = out.records();
        found.sort();
        expected.sort();
        assert!(found == expected, "{} of {}", found.len(), expected.len());
    }
}
