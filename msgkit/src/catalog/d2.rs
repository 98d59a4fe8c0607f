//! The catalog in D2 (<https://d2lang.com/tour/intro>).

use std::fmt::Write as _;

use super::Catalog;
use super::drawing::{Drawing, Node, Shape};

pub(super) fn write(catalog: &Catalog) -> String {
    let drawing = Drawing::of(catalog);
    let mut out = "direction: right\n".to_owned();
    for node in &drawing.nodes {
        boxed(node, 0, &mut out);
    }
    for arrow in &drawing.arrows {
        let style = if arrow.is_call { " {style.stroke-dash: 4}" } else { "" };
        let (from, to) = (arrow.from.join("."), arrow.to.join("."));
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{from} -> {to}: {}{style}", quoted(&arrow.label.join("\n")));
    }
    out
}

fn boxed(node: &Node, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let label = if node.id == node.label { String::new() } else { format!(": {}", quoted(&node.label)) };
    let _ = write!(out, "{indent}{}{label}", node.id);
    let style = match node.shape {
        Shape::Component => "",
        Shape::External => "shape: oval",
        Shape::Elsewhere => "shape: cloud",
    };
    let before = if label.is_empty() { ": " } else { " " };
    if !node.inside.is_empty() {
        let _ = writeln!(out, "{before}{{");
        for inside in &node.inside {
            boxed(inside, depth + 1, out);
        }
        let _ = writeln!(out, "{indent}}}");
    } else if style.is_empty() {
        out.push('\n');
    } else {
        let _ = writeln!(out, "{before}{{{style}}}");
    }
}

/// A string in double quotes in which nothing means anything: no escape, no `${variable}`, no end of line.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' | '$' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            _ if c.is_control() => quoted.push(' '),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
