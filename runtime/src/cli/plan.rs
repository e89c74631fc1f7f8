//! `JOB plan`: what would run, as text or JSON. Starts nothing.
use crate::graph::{JobGraph, LogicalGraph, NodeKind};
use serde::Serialize;
use std::fmt::Write;

#[derive(Serialize)]
struct Plan<'a> {
    fingerprint: String,
    slots: u32,
    vertices: Vec<PlanVertex<'a>>,
}

#[derive(Serialize)]
struct PlanVertex<'a> {
    name: &'a str,
    parallelism: u32,
    operators: Vec<PlanOperator<'a>>,
    inputs: Vec<PlanInput<'a>>,
}

#[derive(Serialize)]
struct PlanOperator<'a> {
    name: &'a str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    states: Vec<String>,
}

#[derive(Serialize)]
struct PlanInput<'a> {
    from: &'a str,
    partition: String,
}

fn plan<'a>(graph: &'a LogicalGraph, job: &'a JobGraph) -> Plan<'a> {
    let operator = |&id: &usize| {
        let n = &graph.nodes[id];
        let kind = match n.kind {
            NodeKind::Source => "source",
            NodeKind::Operator => "operator",
            NodeKind::Sink => "sink",
        };
        let states = n.states.iter().map(|s| format!("{} ({:?}): {} -> {}", s.name, s.kind, s.key, s.value)).collect();
        PlanOperator { name: &n.name, kind, output: n.output_type.as_ref().map(|t| t.describe()), states }
    };
    let input = |&e: &u32| {
        let edge = &job.edges[e as usize];
        PlanInput { from: &graph.nodes[edge.from_node].name, partition: format!("{:?}", edge.partition) }
    };
    let vertex = |v: &'a crate::graph::Vertex| PlanVertex {
        name: &v.name,
        parallelism: v.parallelism,
        operators: v.nodes.iter().map(operator).collect(),
        inputs: v.inputs.iter().map(input).collect(),
    };
    Plan { fingerprint: graph.fingerprint(), slots: job.slots(), vertices: job.vertices.iter().map(vertex).collect() }
}

/// The plan as JSON.
pub fn json(graph: &LogicalGraph, job: &JobGraph) -> String {
    serde_json::to_string_pretty(&plan(graph, job)).unwrap_or_default()
}

/// The plan as text for a person.
pub fn text(graph: &LogicalGraph, job: &JobGraph) -> String {
    let p = plan(graph, job);
    let mut out = format!("graph {}, {} slots\n", p.fingerprint, p.slots);
    for v in &p.vertices {
        let _ = writeln!(out, "{} x{}", v.name, v.parallelism);
        for i in &v.inputs {
            let _ = writeln!(out, "    from {} ({})", i.from, i.partition);
        }
        for o in &v.operators {
            let output = o.output.as_deref().map(|t| format!(" -> {t}")).unwrap_or_default();
            let _ = writeln!(out, "    {} {}{output}", o.kind, o.name);
            for s in &o.states {
                let _ = writeln!(out, "        state {s}");
            }
        }
    }
    out
}
