//! Runs other programs: arguments, input and output in, one clear error out.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A command to run to its end, with its output captured.
#[derive(Debug)]
pub struct Cmd {
    command: Command,
    input: Option<Vec<u8>>,
}

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), input: None }
    }

    /// `program` in the network namespace `netns` (a file as in `/run/netns/NAME`).
    ///
    /// Not by `ip netns exec`, which remounts `/sys` and so hides the cgroups.
    pub fn in_netns(netns: &Path, program: impl AsRef<OsStr>) -> Self {
        Self::new("nsenter").arg(format!("--net={}", netns.display())).arg("--").arg(program)
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What the program reads on its standard input; without it, nothing.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Runs it and returns what it printed on stdout; an error when it does not end with success.
    pub fn stdout(self) -> Result<String> {
        let what = self.describe();
        let output = self.output()?;
        if !output.status.success() {
            bail!("{what}: {}: {}", output.status, failure_text(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it for its effect.
    pub fn run(self) -> Result<()> {
        self.stdout().map(drop)
    }

    /// Whether it ran and ended with success.
    pub fn succeeds(self) -> bool {
        self.output().is_ok_and(|output| output.status.success())
    }

    /// Runs it, whatever its exit status.
    pub fn output(mut self) -> Result<Output> {
        let what = self.describe();
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = self
            .command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        // Written from a thread of its own: a program may print before it has read everything.
        let writer = self.input.take().zip(child.stdin.take()).map(|(input, mut stdin)| {
            std::thread::spawn(move || {
                // A program that ends without reading all of it is judged by its exit status.
                let _ = stdin.write_all(&input);
            })
        });
        let output = child.wait_with_output().with_context(|| format!("cannot wait for {what}"))?;
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        Ok(output)
    }

    /// Runs it with this program's own stdin, stdout and stderr: for long builds that a person watches.
    pub fn run_visibly(mut self) -> Result<()> {
        let what = self.describe();
        let status = self.command.status().with_context(|| format!("cannot start {what}"))?;
        if !status.success() {
            bail!("{what}: {status}");
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let mut words = vec![self.command.get_program().to_string_lossy().into_owned()];
        words.extend(self.command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
        let mut line = words.join(" ");
        if line.len() > 300 {
            let end = (0..=300).rev().find(|i| line.is_char_boundary(*i)).unwrap_or(0);
            line.truncate(end);
            line.push_str("...");
        }
        format!("`{line}`")
    }
}

fn failure_text(output: &Output) -> String {
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    // The end holds the reason when a program prints a lot.
    let start = text.len().saturating_sub(4000);
    let start = (start..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[start..].to_owned()
}

/// Whether a program of this name is on the `PATH`.
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
