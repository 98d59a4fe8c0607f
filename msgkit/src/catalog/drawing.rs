//! What both diagram languages draw: a tree of boxes, and arrows between them.

use std::collections::BTreeMap;

use super::Catalog;
use crate::text::Text;

/// A box; what is in it, where it is a group of components.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Unique among its siblings whatever the case; letters, digits and `_` only.
    pub(super) id: String,
    /// What the user calls it.
    pub(super) label: String,
    pub(super) shape: Shape,
    pub(super) inside: Vec<Node>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Shape {
    #[default]
    Component,
    External,
    /// Stands for everything that is not in the catalog.
    Elsewhere,
}

/// Ids from the outermost box to the one that is meant.
pub(super) type Path = Vec<String>;

#[derive(Debug)]
pub(super) struct Arrow {
    pub(super) from: Path,
    pub(super) to: Path,
    /// The lines of its label.
    pub(super) label: Vec<String>,
    pub(super) is_call: bool,
}

#[derive(Debug)]
pub(super) struct Drawing {
    pub(super) nodes: Vec<Node>,
    pub(super) arrows: Vec<Arrow>,
}

/// The end of an arrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End<'a> {
    Of(&'a str),
    Elsewhere,
}

impl Drawing {
    pub(super) fn of(catalog: &Catalog) -> Self {
        // One arrow for each topic between two components; the types are in its label.
        let mut messages: BTreeMap<(End<'_>, End<'_>, &str), Vec<&str>> = BTreeMap::new();
        let links = catalog.links();
        let heard = links
            .iter()
            .map(|link| (End::Of(&link.from), End::Of(&link.to), link.topic.as_str(), link.message.as_str()));
        let unheard = catalog.unheard();
        let unheard = unheard.iter().map(|(from, of)| (End::Of(from), End::Elsewhere, of.topic(), of.name()));
        let unsent = catalog.unsent();
        let unsent = unsent.iter().map(|(to, of)| (End::Elsewhere, End::Of(to), of.topic(), of.name()));
        for (from, to, topic, message) in heard.chain(unheard).chain(unsent) {
            let types = messages.entry((from, to, topic)).or_default();
            if !types.contains(&message) {
                types.push(message);
            }
        }
        let open = messages.keys().any(|(from, to, _)| [from, to].contains(&&End::Elsewhere));
        let (nodes, places, elsewhere) = boxes(catalog, open);
        let place = |end: End<'_>| match end {
            End::Of(component) => places.get(component).cloned().unwrap_or_default(),
            End::Elsewhere => vec![elsewhere.clone()],
        };
        let mut arrows: Vec<Arrow> = messages
            .into_iter()
            .map(|((from, to, topic), types)| Arrow {
                from: place(from),
                to: place(to),
                label: [topic].into_iter().chain(types).map(str::to_owned).collect(),
                is_call: false,
            })
            .collect();
        arrows.extend(catalog.calls().map(|call| Arrow {
            from: place(End::Of(&call.from)),
            to: place(End::Of(&call.to)),
            label: vec![call.what.to_string()],
            is_call: true,
        }));
        Self { nodes, arrows }
    }
}

/// The boxes, where each component is drawn, and the id of the box for what is not here.
fn boxes(catalog: &Catalog, open: bool) -> (Vec<Node>, BTreeMap<Text, Path>, String) {
    /// Segment → whether it is a component itself, and what is below.
    #[derive(Default)]
    struct Tree<'a> {
        component: Option<&'a str>,
        below: BTreeMap<&'a str, Tree<'a>>,
    }
    fn plant(tree: Tree<'_>, path: &Path, places: &mut BTreeMap<Text, Path>) -> Vec<Node> {
        let mut nodes: Vec<Node> = Vec::new();
        for (segment, tree) in tree.below {
            let mut node = node(segment, Shape::Component, &nodes);
            let mut own: Path = path.clone();
            own.push(node.id.clone());
            let component = tree.component;
            node.inside = plant(tree, &own, places);
            if let Some(component) = component {
                // A component with others in it is drawn inside its own box: neither language lets an arrow go from
                // a box to what is in it.
                if !node.inside.is_empty() {
                    let itself = self::node(segment, Shape::Component, &node.inside);
                    own.push(itself.id.clone());
                    node.inside.push(itself);
                }
                places.insert(component.into(), own);
            }
            nodes.push(node);
        }
        nodes
    }
    let mut tree = Tree::default();
    let (external, internal): (Vec<&str>, Vec<&str>) =
        catalog.components().partition(|component| catalog.is_external(component));
    for component in internal {
        let at = component.split('.').fold(&mut tree, |tree, segment| tree.below.entry(segment).or_default());
        at.component = Some(component);
    }
    let mut places = BTreeMap::new();
    let mut nodes = plant(tree, &Path::new(), &mut places);
    for component in external {
        let node = node(component, Shape::External, &nodes);
        places.insert(component.into(), vec![node.id.clone()]);
        nodes.push(node);
    }
    let elsewhere = node("elsewhere", Shape::Elsewhere, &nodes);
    let id = elsewhere.id.clone();
    nodes.extend(open.then_some(elsewhere));
    (nodes, places, id)
}

/// Words of D2, which as keys would mean something else.
const WORDS: [&str; 43] = [
    "label",
    "desc",
    "shape",
    "icon",
    "constraint",
    "tooltip",
    "link",
    "near",
    "width",
    "height",
    "direction",
    "top",
    "left",
    "grid-rows",
    "grid-columns",
    "grid-gap",
    "vertical-gap",
    "horizontal-gap",
    "class",
    "classes",
    "vars",
    "source-arrowhead",
    "target-arrowhead",
    "style",
    "opacity",
    "stroke",
    "fill",
    "filled",
    "shadow",
    "multiple",
    "font",
    "animated",
    "bold",
    "italic",
    "underline",
    "layers",
    "scenarios",
    "steps",
    "null",
    "true",
    "false",
    "suspend",
    "unsuspend",
];

/// A box named `label` with an id that none of `siblings` has.
fn node(label: &str, shape: Shape, siblings: &[Node]) -> Node {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut base: String = label.chars().take(60).map(plain).collect();
    if base.chars().all(|c| c == '_') || WORDS.contains(&base.to_ascii_lowercase().as_str()) {
        base = format!("x_{base}");
    }
    let is_free = |id: &str| !siblings.iter().any(|sibling| sibling.id.eq_ignore_ascii_case(id));
    let ids = std::iter::once(base.clone()).chain((2_u32..).map(|n| format!("{base}_{n}")));
    let id = ids.into_iter().find(|id| is_free(id)).unwrap_or(base.clone());
    Node { id, label: label.to_owned(), shape, inside: Vec::new() }
}
