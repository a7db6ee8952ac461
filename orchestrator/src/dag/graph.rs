//! The order of tasks: loops and what ends a DAG.
use std::collections::{HashMap, HashSet};

use super::Dag;

/// Finds loops in `edges` (a name and the names it comes after): each loop once, as the path of names along `after`.
pub(super) fn loops<'a>(edges: &[(&'a str, Vec<&'a str>)]) -> Vec<Vec<&'a str>> {
    const NEW: u8 = 0;
    const OPEN: u8 = 1;
    const DONE: u8 = 2;
    let places: HashMap<&str, usize> = edges.iter().enumerate().map(|(place, (name, _))| (*name, place)).collect();
    let index = |name: &str| places.get(name).copied();
    let mut state = vec![NEW; edges.len()];
    let mut found = Vec::new();
    for start in 0..edges.len() {
        if state[start] != NEW {
            continue;
        }
        // Depth first without recursion: a chain of 100,000 tasks must not end the stack.
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        state[start] = OPEN;
        while let Some((node, next)) = path.pop() {
            let Some(name) = edges[node].1.get(next) else {
                state[node] = DONE;
                continue;
            };
            path.push((node, next + 1));
            let Some(target) = index(name) else { continue };
            if state[target] == NEW {
                state[target] = OPEN;
                path.push((target, 0));
            } else if state[target] == OPEN {
                let from = path.iter().position(|(node, _)| *node == target).unwrap_or_default();
                found.push(path[from..].iter().map(|(node, _)| edges[*node].0).collect());
            }
        }
    }
    found
}

/// The tasks nothing comes after: how they end is how the run ends.
pub fn leaves(dag: &Dag) -> Vec<&str> {
    let inner: HashSet<&str> = dag.tasks.iter().flat_map(|task| task.after.iter().map(String::as_str)).collect();
    dag.tasks.iter().map(|task| task.id.as_str()).filter(|id| !inner.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_found_and_diamonds_are_none() {
        assert_eq!(loops(&[("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["a"])]), [vec!["a", "b", "c"]]);
        assert_eq!(loops(&[("a", vec!["a"])]), [vec!["a"]]);
        assert!(loops(&[("a", vec![]), ("b", vec!["a"]), ("c", vec!["a"]), ("d", vec!["b", "c"])]).is_empty());
        assert_eq!(loops(&[("a", vec!["b"]), ("b", vec!["a"]), ("c", vec!["d", "a"]), ("d", vec!["c"])]).len(), 2);
        assert!(loops(&[("a", vec!["nowhere"])]).is_empty());
    }
}
