//! The catalog as a Mermaid flowchart (<https://mermaid.js.org/syntax/flowchart.html>).

use std::fmt::Write as _;

use super::Catalog;
use super::drawing::{Drawing, Node, Path, Shape};

pub(super) fn write(catalog: &Catalog) -> String {
    let drawing = Drawing::of(catalog);
    let mut out = "flowchart LR\n".to_owned();
    for node in &drawing.nodes {
        boxed(node, &Path::new(), &mut out);
    }
    for arrow in &drawing.arrows {
        let line = if arrow.is_call { "-.->" } else { "-->" };
        let label: Vec<String> = arrow.label.iter().map(|line| escaped(line)).collect();
        // Writing into a string cannot fail.
        let _ = writeln!(out, "  {} {line}|\"{}\"| {}", id(&arrow.from), label.join("<br/>"), id(&arrow.to));
    }
    out
}

/// Ids are flat here. The beginning keeps them from being words of Mermaid (`end`), `-` stands in none of the parts.
fn id(path: &Path) -> String {
    format!("c_{}", path.join("-"))
}

fn boxed(node: &Node, above: &Path, out: &mut String) {
    let mut path = above.clone();
    path.push(node.id.clone());
    let indent = "  ".repeat(path.len());
    let (id, label) = (id(&path), escaped(&node.label));
    if node.inside.is_empty() {
        let _ = match node.shape {
            Shape::Component => writeln!(out, "{indent}{id}[\"{label}\"]"),
            Shape::External => writeln!(out, "{indent}{id}([\"{label}\"])"),
            Shape::Elsewhere => writeln!(out, "{indent}{id}{{{{\"{label}\"}}}}"),
        };
        return;
    }
    let _ = writeln!(out, "{indent}subgraph {id}[\"{label}\"]");
    for inside in &node.inside {
        boxed(inside, &path, out);
    }
    let _ = writeln!(out, "{indent}end");
}

/// Punctuation that means nothing between quotes.
const PLAIN: &str = " .,_-/:(){}?=+";

/// A label in which nothing means anything: what is neither a letter, a digit nor plain punctuation is written by its
/// number. That leaves no quote, no tag, no `%%{…}%%` directive and no markdown.
fn escaped(label: &str) -> String {
    let mut escaped = String::with_capacity(label.len());
    for c in label.chars() {
        match c {
            _ if c.is_alphanumeric() || PLAIN.contains(c) => escaped.push(c),
            _ if c.is_control() => escaped.push(' '),
            _ => {
                let _ = write!(escaped, "#{};", u32::from(c));
            }
        }
    }
    if escaped.is_empty() { " ".to_owned() } else { escaped }
}
