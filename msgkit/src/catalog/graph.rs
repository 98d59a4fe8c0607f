//! What leads to what, and where that goes round.
//!
//! A handler leads to the handlers of what it publishes, and to what its component calls; being called leads to what the
//! component publishes outside of handlers and to what it calls in turn. So a question and its answer are no cycle, since
//! nothing follows from the answer, but a message that causes itself again is one. What is external leads nowhere: who
//! decides there is not part of the system.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Catalog;

/// Every cycle by the names of its stations, the smallest name first; each station of any cycle is in at least one.
pub(super) fn cycles(catalog: &Catalog) -> Vec<Vec<String>> {
    let graph = edges(catalog);
    let (mut found, mut told) = (BTreeSet::new(), BTreeSet::new());
    for start in graph.keys() {
        if !told.contains(start)
            && let Some(mut cycle) = way_back(&graph, start)
        {
            told.extend(cycle.iter().cloned());
            let smallest = (0..cycle.len()).min_by_key(|at| cycle[*at].clone()).unwrap_or_default();
            cycle.rotate_left(smallest);
            found.insert(cycle);
        }
    }
    found.into_iter().collect()
}

fn edges(catalog: &Catalog) -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let internal = |component: &str| !catalog.is_external(component);
    let station = |component: &str, handler: &str| format!("{component}/{handler}");
    for (component, by, message) in catalog.publications().filter(|(component, _, _)| internal(component)) {
        let from = by.map_or_else(|| component.to_string(), |handler| station(component, handler.name()));
        let takers =
            catalog.handlers().filter(|handler| handler.hears(message) && internal(handler.component()));
        graph.entry(from).or_default().extend(takers.map(|taker| station(taker.component(), taker.name())));
    }
    for call in catalog.calls().filter(|call| internal(&call.from) && internal(&call.to)) {
        let own = catalog.handlers().filter(|handler| handler.component() == call.from.as_str());
        let callers = own.map(|handler| station(handler.component(), handler.name()));
        for from in callers.chain([call.from.to_string()]) {
            graph.entry(from).or_default().insert(call.to.to_string());
        }
    }
    graph
}

/// The shortest way from `start` back to it, without the repeated end.
fn way_back(graph: &BTreeMap<String, BTreeSet<String>>, start: &str) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut waiting = VecDeque::from([start]);
    while let Some(at) = waiting.pop_front() {
        for next in graph.get(at).into_iter().flatten() {
            if next == start {
                let mut way = vec![at.to_owned()];
                let mut before = at;
                while before != start {
                    before = came_from.get(before)?;
                    way.push(before.to_owned());
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(next.as_str()) {
                came_from.insert(next, at);
                waiting.push_back(next);
            }
        }
    }
    None
}
