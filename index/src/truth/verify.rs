//! Reading all of a collection's file and comparing it with what was committed.

use std::collections::BTreeMap;

use super::rows::{RawPoint, Slot};
use super::{Header, Tally, Truth};
use crate::error::{Error, Result};

/// What [`Truth::verify`] found in order.
#[derive(Debug, Default)]
pub(crate) struct TruthReport {
    pub(crate) points: u64,
    /// Slots of each vector, ascending.
    pub(crate) slots: BTreeMap<String, Vec<Slot>>,
}

impl Truth {
    /// Every page by SQLite's own check, every row by its checksum, both tables by their tallies, and that points and
    /// vectors name each other. The first thing that is wrong is the error.
    pub(crate) fn verify(&self, header: &Header) -> Result<TruthReport> {
        let integrity: String = self.run(|connection| connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)))?;
        if integrity != "ok" {
            return Err(self.damaged(integrity));
        }
        let mut report = TruthReport::default();
        let mut owners = BTreeMap::new();
        let mut tally = Tally::default();
        self.each("SELECT number, id, version, slots, payload, checksum FROM point ORDER BY number", |row| {
            let point = RawPoint::read(row).map_err(|source| Error::sqlite(&self.0.path, source))?.verify(&self.0.path)?;
            point.payload(&self.0.path)?;
            tally.add(point.checksum());
            // A later point would be given its number.
            if point.number >= header.next_point {
                return Err(Error::DamagedPoint { path: self.0.path.clone(), id: point.id, place: format!("number {}", point.number) });
            }
            for (name, slot) in &point.slots {
                owners.insert(*slot, (point.number, name.clone(), point.id));
            }
            Ok(())
        })?;
        self.compare("points", tally, header.points)?;
        report.points = tally.rows;
        let mut tally = Tally::default();
        let mut next = 0;
        self.blocks(0, i64::MAX as Slot, |block| {
            for entry in &block.entries {
                tally.add(entry.checksum);
                let vector = block.vector(self, entry)?;
                match owners.remove(&vector.slot) {
                    Some((number, name, _))
                        if number == vector.point && name == vector.name && (next..header.next_slot).contains(&vector.slot) => {}
                    _ => return Err(Error::DamagedVector { path: self.0.path.clone(), slot: vector.slot }),
                }
                next = vector.slot + 1;
                report.slots.entry(vector.name).or_default().push(vector.slot);
            }
            Ok(true)
        })?;
        self.compare("vectors", tally, header.vectors)?;
        if let Some((slot, (_, _, id))) = owners.pop_first() {
            return Err(Error::DamagedPoint { path: self.0.path.clone(), id, place: format!("slot {slot}") });
        }
        Ok(report)
    }

    pub(super) fn each(&self, sql: &str, mut visit: impl FnMut(&rusqlite::Row<'_>) -> Result<()>) -> Result<()> {
        let sqlite = |source| Error::sqlite(&self.0.path, source);
        let mut statement = self.0.connection.prepare(sql).map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            visit(row)?;
        }
        Ok(())
    }

    pub(super) fn compare(&self, what: &str, found: Tally, committed: Tally) -> Result<()> {
        if found == committed {
            return Ok(());
        }
        Err(self.damaged(format!("it holds {} {what}, not the {} that were committed, or others", found.rows, committed.rows)))
    }
}
