//! The Prometheus text format. Everything shown is sampled when it is asked for, so there is nothing to register.
use std::fmt::{Display, Write};

/// Content type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// A page of metrics under construction.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a metric; its samples follow. Names of counters end in `_total`.
    pub fn metric(&mut self, name: &str, kind: Kind, help: &str) -> Metric<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Metric { out: &mut self.0, name: name.to_owned() }
    }
    pub fn finish(self) -> String {
        self.0
    }
}

/// Takes the samples of one metric.
pub struct Metric<'a> {
    out: &'a mut String,
    name: String,
}

impl Metric<'_> {
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.out.push_str(&self.name);
        for (i, (name, value)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{name}=\"", if i == 0 { '{' } else { ',' });
            for c in value.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        let _ = writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut e = Exposition::default();
        e.metric("weir_x_total", Kind::Counter, "Things.")
            .sample(&[("a", "q\"b\\c\nd"), ("n", "1")], 3)
            .sample(&[], 1.5);
        let expected = "# HELP weir_x_total Things.\n# TYPE weir_x_total counter\n\
                        weir_x_total{a=\"q\\\"b\\\\c\\nd\",n=\"1\"} 3\nweir_x_total 1.5\n";
        assert_eq!(e.finish(), expected);
    }
}
