//! Medians and the table.

use std::fmt;
use std::time::Duration;

/// Times of one kind.
#[derive(Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, time: Duration) {
        eprintln!("  {:.2} s", time.as_secs_f64());
        self.0.push(time.as_secs_f64());
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { return f.write_str("not measured") };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        write!(f, "{median:.2} s ({min:.2}-{max:.2}, {})", sorted.len())
    }
}

/// A line of the table.
#[derive(Debug)]
pub struct Row {
    what: String,
    flink: String,
    must: String,
    goal: String,
    measured: String,
}

impl Row {
    pub fn new(what: &str, flink: &str, must: &str, goal: &str, measured: impl fmt::Display) -> Self {
        Self {
            what: what.into(),
            flink: flink.into(),
            must: must.into(),
            goal: goal.into(),
            measured: measured.to_string(),
        }
    }

    pub fn failed(what: &str, error: &str) -> Self {
        eprintln!("  failed: {error}");
        let line = error.lines().next().unwrap_or_default();
        Self::new(what, "", "", "", format!("failed: {line}"))
    }
}

/// Prints the table as Markdown, with columns that line up.
pub fn print(rows: &[Row], note: &str) {
    let head = ["what", "Flink operator", "must", "goal", "Weir"].map(str::to_owned);
    let cells: Vec<[String; 5]> = std::iter::once(head)
        .chain(rows.iter().map(|row| [&row.what, &row.flink, &row.must, &row.goal, &row.measured].map(Clone::clone)))
        .collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    for (index, row) in cells.iter().enumerate() {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("| {} |", line.join(" | "));
        if index == 0 {
            let line: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            println!("|-{}-|", line.join("-|-"));
        }
    }
    println!("\n{note}");
}
