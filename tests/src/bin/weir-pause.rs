//! Holds a pod's namespaces: sleeps until SIGTERM or SIGINT. The cluster harness's own pause image is made of it.
use std::process::ExitCode;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    // As process 1 of its pid namespace it gets no signal that it has no handler for.
    match Signals::new([SIGTERM, SIGINT]) {
        Ok(mut signals) => {
            signals.forever().next();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weir-pause: cannot wait for signals: {error}");
            ExitCode::FAILURE
        }
    }
}
