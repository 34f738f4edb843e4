//! Whether searches can come by every row of a segment: the audit that a build makes, made again of what lies in the file.

use super::format::Kind;
use super::links::Links;
use super::{FURTHER, Row, Segment};
use crate::build::Node;

impl Segment {
    /// Every row must be that of a node to which links on layer 0 lead from node 0, where each walk begins or comes by, or be scanned
    /// beside the graph. What is wrong, and where.
    pub(super) fn check_reach(&self) -> Result<(), (Kind, String)> {
        if !self.has_graph() {
            return Ok(());
        }
        let node_rows = self.section::<u32>(Kind::NodeRows);
        let links = Links::of(self);
        let mut is_reached = vec![false; node_rows.len()];
        let mut open: Vec<Node> = Vec::new();
        if let Some(entry) = is_reached.first_mut() {
            *entry = true;
            open.push(0);
        }
        while let Some(node) = open.pop() {
            for next in links.of_list(node as usize) {
                if !std::mem::replace(&mut is_reached[next as usize], true) {
                    open.push(next);
                }
            }
        }
        let mut is_found = vec![false; self.rows()];
        let mut find = |row: Row| is_found[row as usize] = true;
        for (row, _) in node_rows.iter().zip(&is_reached).filter(|(_, is_reached)| **is_reached) {
            find(row & !FURTHER);
        }
        for [node, row] in self.section::<[u32; 2]>(Kind::FurtherRows) {
            if is_reached[*node as usize] {
                find(*row);
            }
        }
        self.section::<u32>(Kind::Side).iter().for_each(|row| find(*row));
        let lost = is_found.iter().filter(|is_found| !**is_found).count();
        match is_found.iter().position(|is_found| !is_found) {
            Some(row) => {
                Err((Kind::Links, format!("they do not lead to {lost} of the {} rows, of which the first is row {row}", self.rows())))
            }
            None => Ok(()),
        }
    }
}
