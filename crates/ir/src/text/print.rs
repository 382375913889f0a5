//! Graph to text.

use crate::{Attr, Graph, Kind, NodeId, Role, ValueId};
use std::fmt::Write;
use tensor::{DType, Tensor};

/// Constants of up to this many elements print their values.
const SHOWN: usize = 8;

/// The text of a graph. Operations stand in execution order.
pub fn print(graph: &Graph) -> String {
    let mut s = String::new();
    let typed = |v: ValueId| format!("{} {}", graph.ty(v), name(&graph.value(v).name));
    let inputs: Vec<String> = graph.inputs().iter().map(|&i| typed(i.into())).collect();
    let outputs: Vec<String> =
        graph.outputs().iter().map(|o| format!("{} {}", graph.ty(o.value), name(&o.name))).collect();
    let title = if graph.name.is_empty() { "graph" } else { &graph.name };
    let _ = writeln!(s, "{} ({}) => ({})", name(title), inputs.join(", "), outputs.join(", "));

    let leaves: Vec<NodeId> =
        graph.nodes().into_iter().filter(|&id| graph.tensor(id.into()).is_some()).collect();
    if !leaves.is_empty() {
        s.push_str("<\n");
        for (i, &id) in leaves.iter().enumerate() {
            let comma = if i + 1 < leaves.len() { "," } else { "" };
            let role = match &graph.node(id).kind {
                Kind::Variable(_, Role::Param(group)) => format!("  # param {group}"),
                Kind::Variable(_, Role::State) => "  # state".to_string(),
                _ => String::new(),
            };
            let value = graph.tensor(id.into()).map(constant).unwrap_or_default();
            let _ = writeln!(s, "  {} = {value}{comma}{role}", typed(id.into()));
        }
        s.push_str(">\n");
    }

    s.push_str("{\n");
    // A graph with a cycle still prints: in birth order.
    for id in graph.order().unwrap_or_else(|_| graph.nodes()) {
        if graph.node(id).op().is_some() {
            let _ = writeln!(s, "  {}", operation(graph, id));
        }
    }
    for o in graph.outputs().iter().filter(|o| graph.value(o.value).name != o.name) {
        let _ = writeln!(s, "  # output {} = {}", name(&o.name), name(&graph.value(o.value).name));
    }
    for u in graph.updates() {
        let (variable, next) = (&graph.node(u.variable).name, &graph.value(u.next).name);
        let _ = writeln!(s, "  # update {} <- {}", name(variable), name(next));
    }
    s.push_str("}\n");
    s
}

/// The line of one operation.
fn operation(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let mut s = String::new();
    if node.outs.first().is_none_or(|o| o.name != node.name) {
        let _ = write!(s, "[{}] ", name(&node.name));
    }
    let outs: Vec<String> = node.outs.iter().map(|o| name(&o.name)).collect();
    let _ = write!(s, "{} = ", outs.join(", "));
    if let Some(op) = node.op() {
        let dot = if op.domain().is_empty() { "" } else { "." };
        let _ = write!(s, "{}{dot}{}", op.domain(), op.name());
        let attrs: Vec<String> = op.attrs().iter().map(|(n, a)| format!("{n}={}", attribute(a))).collect();
        if !attrs.is_empty() {
            let _ = write!(s, " <{}>", attrs.join(", "));
        }
    }
    let ins: Vec<String> =
        node.ins.iter().map(|v| v.map_or_else(String::new, |v| name(&graph.value(v).name))).collect();
    let types: Vec<String> = node.outs.iter().map(|o| o.ty.to_string()).collect();
    let _ = write!(s, " ({})  # {}", ins.join(", "), types.join(", "));
    s
}

/// A name as it is where the syntax allows it, quoted where not.
fn name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-/:@".contains(c);
    let begins = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if begins && name.chars().all(plain) { name.to_string() } else { format!("{name:?}") }
}

/// A number that reads back as a float.
fn float(x: f64) -> String {
    let s = format!("{}", x as f32);
    if s.contains(['.', 'e', 'n', 'i']) { s } else { s + ".0" }
}

fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", "))
}

fn attribute(a: &Attr) -> String {
    match a {
        Attr::Int(x) => x.to_string(),
        Attr::Float(x) => float(*x as f64),
        Attr::Str(x) => format!("{x:?}"),
        Attr::Ints(x) => list(x, i64::to_string),
        Attr::Floats(x) => list(x, |&x| float(x as f64)),
        Attr::Strs(x) => list(x, |x| format!("{x:?}")),
        Attr::Tensor(t) => format!("{}{:?} {}", t.dtype(), t.shape(), constant(t)),
        Attr::Graph(inner) => print(&inner.graph).trim_end().replace('\n', "\n    "),
        Attr::Raw(bytes) => format!("\"{} bytes\"", bytes.len()),
    }
}

fn constant(t: &Tensor) -> String {
    let values = t.to_f64();
    let number = |x: &f64| if t.dtype().is_float() { float(*x) } else { format!("{x}") };
    if values.len() <= SHOWN {
        let integers = matches!(t.dtype(), DType::I64 | DType::U64);
        let shown: Vec<String> = if integers {
            t.to_i64().iter().map(i64::to_string).collect()
        } else {
            values.iter().map(number).collect()
        };
        return format!("{{{}}}", shown.join(", "));
    }
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("[\"fnv\": \"{:016x}\", \"range\": \"{}..{}\"]", t.digest(), number(&low), number(&high))
}
