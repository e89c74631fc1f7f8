//! Medians, the printed table, and the JSON file for history.
use serde::Serialize;

use crate::workloads::Ratio;

/// One interleaved run of a workload: the limit, then Weir.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// Million results per second of the clock; of processor time.
    pub weir: f64,
    pub weir_per_core: f64,
    pub limit: f64,
    pub limit_per_core: f64,
    pub cpu_seconds: f64,
    pub peak_mib: f64,
    pub allocations: Option<f64>,
    /// Checkpoints completed while it ran.
    pub checkpoints: usize,
    /// One-minute load of the machine before the run, its own included.
    pub load: f64,
}

impl Pair {
    fn ratio(&self, ratio: Ratio) -> f64 {
        match ratio {
            Ratio::Clock => self.weir / self.limit,
            Ratio::Core => self.weir_per_core / self.limit_per_core,
            Ratio::Loss => (1.0 - self.weir / self.limit) * 100.0,
        }
    }
    /// The same by processor time, which other work on the machine disturbs less.
    fn ratio_per_core(&self, ratio: Ratio) -> f64 {
        match ratio {
            Ratio::Loss => (1.0 - self.weir_per_core / self.limit_per_core) * 100.0,
            _ => self.weir_per_core / self.limit_per_core,
        }
    }
}

/// A line of the table.
#[derive(Debug, Serialize)]
pub struct Line {
    pub row: String,
    pub name: String,
    /// Whether the result was right in every run; else why not.
    pub wrong: Option<String>,
    pub weir: Option<f64>,
    pub limit: Option<f64>,
    pub ratio: Option<f64>,
    pub ratio_per_core: Option<f64>,
    /// Of each run: the ratio, or the figure where there is none.
    pub ratios: Vec<f64>,
    pub must: String,
    pub met: Option<bool>,
    pub flink: Option<f64>,
    pub timely: Option<f64>,
    pub cpu_seconds: Option<f64>,
    pub peak_mib: Option<f64>,
    pub allocations: Option<f64>,
    pub pairs: Vec<Pair>,
}

/// What is measured as it is, without a loop beside it: less is better.
#[derive(Debug, Default)]
pub struct Figure {
    pub row: &'static str,
    /// With the unit.
    pub name: String,
    /// One of each run.
    pub values: Vec<f64>,
    /// The same of the handwritten loop, where there is one.
    pub limits: Vec<f64>,
    pub must: f64,
    pub goal: f64,
    pub flink: Option<f64>,
    pub wrong: Option<String>,
    pub cpu_seconds: Vec<f64>,
    pub peak_mib: Vec<f64>,
}

impl Figure {
    pub fn new(row: &'static str, name: impl Into<String>, values: Vec<f64>) -> Self {
        Self { row, name: name.into(), values, ..Self::default() }
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

impl Line {
    pub fn new(w: &crate::workloads::Workload, pairs: Vec<Pair>, wrong: Option<String>) -> Self {
        let of = |f: &dyn Fn(&Pair) -> f64| median(pairs.iter().map(f));
        let core = w.ratio == Ratio::Core;
        let ratio = of(&|p| p.ratio(w.ratio));
        let (must, goal) = (w.must, w.goal);
        Self {
            row: w.row.into(),
            name: w.name.into(),
            wrong,
            weir: of(&|p| if core { p.weir_per_core } else { p.weir }),
            limit: of(&|p| if core { p.limit_per_core } else { p.limit }),
            ratio,
            ratio_per_core: of(&|p| p.ratio_per_core(w.ratio)),
            ratios: pairs.iter().map(|p| p.ratio(w.ratio)).collect(),
            must: if w.ratio == Ratio::Loss { format!("<= {must} % ({goal})") } else { format!("{must} ({goal})") },
            met: ratio.map(|r| if w.ratio == Ratio::Loss { r <= must } else { r >= must }),
            flink: w.flink,
            timely: w.timely,
            cpu_seconds: of(&|p| p.cpu_seconds),
            peak_mib: of(&|p| p.peak_mib),
            allocations: median(pairs.iter().filter_map(|p| p.allocations)),
            pairs,
        }
    }

    /// A figure that is no rate. `flink`: not a number where it was not measured.
    pub fn plain(
        row: &'static str,
        name: &str,
        value: Option<f64>,
        must: f64,
        goal: f64,
        flink: f64,
        unit: &str,
    ) -> Self {
        let flink = Some(flink).filter(|f| f.is_finite());
        let name = format!("{name}, {unit}");
        Self::figure(Figure { must, goal, flink, ..Figure::new(row, name, value.into_iter().collect()) })
    }

    /// A figure that is no rate: the median of the runs' values, which must not exceed a bound. Its ratio to that of a loop
    /// tells how much of it the machine itself takes.
    pub fn figure(f: Figure) -> Self {
        let weir = median(f.values.iter().copied());
        let limit = median(f.limits.into_iter());
        Self {
            row: f.row.into(),
            name: f.name,
            wrong: f.wrong,
            weir,
            limit,
            ratio: weir.zip(limit).map(|(weir, limit)| weir / limit),
            ratio_per_core: None,
            must: format!("<= {} ({})", f.must, f.goal),
            met: weir.map(|v| v <= f.must),
            flink: f.flink,
            timely: None,
            cpu_seconds: median(f.cpu_seconds.into_iter()),
            peak_mib: median(f.peak_mib.into_iter()),
            allocations: None,
            ratios: f.values,
            pairs: Vec::new(),
        }
    }

    fn cells(&self) -> [String; 13] {
        let number = |v: Option<f64>, digits: usize| v.map_or_else(String::new, |v| format!("{v:.digits$}"));
        let loss = self.must.contains('%');
        let ratio = |v: Option<f64>| match v {
            Some(v) if loss => format!("{v:.1} %"),
            v => number(v, 2),
        };
        let spread = self.ratios.iter().fold((f64::MAX, f64::MIN), |(a, b), &r| (a.min(r), b.max(r)));
        let spread = if self.ratios.len() < 2 { String::new() } else { format!("{:.2}-{:.2}", spread.0, spread.1) };
        let verdict = match (&self.wrong, self.met) {
            (Some(_), _) => "WRONG",
            (None, Some(true)) => "yes",
            (None, Some(false)) => "no",
            (None, None) => "",
        };
        [
            self.row.clone(),
            self.name.clone(),
            number(self.weir, 2),
            number(self.limit, 2),
            ratio(self.ratio),
            spread,
            ratio(self.ratio_per_core),
            format!("{} {verdict}", self.must),
            number(self.flink, 2),
            number(self.timely, 1),
            number(self.cpu_seconds, 2),
            number(self.peak_mib, 0),
            number(self.allocations, 4),
        ]
    }
}

/// Prints the table as Markdown, with columns that line up.
pub fn print(lines: &[Line]) {
    let head = [
        "row",
        "work (M/s)",
        "Weir",
        "limit",
        "ratio",
        "min-max",
        "by CPU",
        "must (goal)",
        "Flink 2.3",
        "timely",
        "CPU s",
        "peak MiB",
        "allocs/rec",
    ];
    let mut cells = vec![head.map(str::to_owned)];
    cells.extend(lines.iter().map(Line::cells));
    let widths: Vec<usize> =
        (0..head.len()).map(|c| cells.iter().map(|row| row[c].chars().count()).max().unwrap_or(0)).collect();
    for (i, row) in cells.iter().enumerate() {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("| {} |", line.join(" | "));
        if i == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            println!("|-{}-|", rule.join("-|-"));
        }
    }
    for line in lines {
        if let Some(why) = &line.wrong {
            println!("\nWRONG RESULT: {}: {why}", line.name);
        }
    }
}
