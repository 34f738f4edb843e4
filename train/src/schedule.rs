//! Learning-rate schedules.
//!
//! A schedule is a function of the place in the run, counted in epochs. The reference programs of MoCo v1, v2 and the
//! CIFAR-10 demonstration set the rate once an epoch, from the number of whole epochs that are done; v3 sets it every step.
//! Both are the same function, asked at another place: [`Update`].
//!
//! A run with a time limit is also at a place in time. Its progress is the larger of the two fractions (see
//! [`Place`]), so that a cosine ends at zero whichever limit is met first.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the rate falls over a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Decay {
    /// Half a cosine, from the full rate to zero: MoCo v2 and the demonstration's published curve.
    Cosine {},
    /// Multiplied by `factor` at each of `milestones`, in epochs: MoCo v1.
    Step { milestones: Vec<f64>, factor: f64 },
}

/// How often the rate is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Update {
    /// Once an epoch, as the reference does for v1, v2 and the demonstration.
    Epoch,
    /// Before every step. Better for runs of few epochs.
    Step,
}

/// The learning rate over a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The rate at the start. It goes with the batch: the reference scales it linearly, 0.03 for 256.
    pub learning_rate: f64,
    pub update: Update,
    pub decay: Decay,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Steps that are done.
    pub step: u64,
    pub steps_per_epoch: u64,
    pub epochs: u64,
    /// Part of the time limit that is used up; 0 without a limit.
    pub time: f64,
}

impl Place {
    /// Steps of a whole run.
    pub fn total_steps(&self) -> u64 {
        self.steps_per_epoch * self.epochs
    }

    /// Part of the run that is done, 0 to 1.
    pub fn fraction(&self) -> f64 {
        (self.step as f64 / self.total_steps() as f64).max(self.time).min(1.0)
    }
}

impl Schedule {
    /// The rate of the next step.
    ///
    /// With a time limit the place in time counts as well, and it moves with every step, whatever [`Update`] says: a run
    /// of two epochs and ten minutes would otherwise end at half the rate.
    pub fn at(&self, place: &Place) -> f64 {
        let epoch = match self.update {
            Update::Epoch => (place.step / place.steps_per_epoch) as f64,
            Update::Step => place.step as f64 / place.steps_per_epoch as f64,
        };
        let epochs = place.epochs as f64;
        self.after(epoch.max(place.time.min(1.0) * epochs), epochs)
    }

    /// The rate after `epoch` of `epochs`.
    fn after(&self, epoch: f64, epochs: f64) -> f64 {
        match &self.decay {
            Decay::Cosine {} => self.learning_rate * 0.5 * (1.0 + (PI * epoch / epochs).cos()),
            Decay::Step { milestones, factor } => {
                let passed = milestones.iter().filter(|milestone| **milestone <= epoch).count();
                // A product in the order of the milestones, as the reference computes it; `powi` rounds differently.
                (0..passed).fold(self.learning_rate, |rate, _| rate * factor)
            }
        }
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(format!("schedule.learning_rate is {}: it must be finite and above 0", self.learning_rate));
        }
        match &self.decay {
            Decay::Cosine {} => {}
            Decay::Step { milestones, factor } => {
                if !(*factor > 0.0 && *factor <= 1.0) {
                    return Err(format!("schedule.decay.factor is {factor}: it must lie above 0 and not above 1"));
                }
                if milestones.iter().any(|milestone| !milestone.is_finite()) || !milestones.is_sorted() {
                    return Err(format!("schedule.decay.milestones is {milestones:?}: epochs must be finite and ascend"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(update: Update) -> Schedule {
        Schedule { learning_rate: 0.06, update, decay: Decay::Cosine {} }
    }

    fn step() -> Schedule {
        Schedule { learning_rate: 0.03, update: Update::Epoch, decay: Decay::Step { milestones: vec![120.0, 160.0], factor: 0.1 } }
    }

    fn place(step: u64) -> Place {
        Place { step, steps_per_epoch: 10, epochs: 200, time: 0.0 }
    }

    #[test]
    fn the_reference_steps_of_v1_come_at_120_and_160_epochs() {
        let rates = [0, 1199, 1200, 1599, 1600, 1999].map(|s| step().at(&place(s)));
        assert_eq!(rates, [0.03, 0.03, 0.03 * 0.1, 0.03 * 0.1, 0.03 * 0.1 * 0.1, 0.03 * 0.1 * 0.1]);
    }

    #[test]
    fn the_cosine_is_that_of_the_reference_and_constant_within_an_epoch() {
        // Python: 0.06 * 0.5 * (1. + math.cos(math.pi * epoch / 200)) for epoch in (0, 1, 100, 199)
        let expected = [0.06, 0.059_996_298_974_449_816, 0.03, 3.701_025_550_182_368e-6];
        for (epoch, expected) in [0, 1, 100, 199].into_iter().zip(expected) {
            for within in [0, 9] {
                assert!((cosine(Update::Epoch).at(&place(epoch * 10 + within)) - expected).abs() < 1e-15);
            }
        }
    }

    #[test]
    fn a_rate_set_every_step_falls_within_an_epoch() {
        let schedule = cosine(Update::Step);
        assert!((1..2000).all(|s| schedule.at(&place(s)) < schedule.at(&place(s - 1))));
        assert!(schedule.at(&place(1995)) < cosine(Update::Epoch).at(&place(1995)));
    }

    #[test]
    fn a_time_limit_brings_the_cosine_to_zero_and_cannot_raise_the_rate() {
        for update in [Update::Epoch, Update::Step] {
            let schedule = cosine(update);
            let late = |time| schedule.at(&Place { time, ..place(15) });
            assert_eq!(late(0.0), schedule.at(&place(15)));
            assert!(late(0.5) - 0.03 < 1e-12 && late(0.75) < late(0.5));
            assert!(late(1.0) < 1e-15 && late(1.7) == late(1.0));
            assert_eq!(schedule.at(&Place { time: 0.5, ..place(1900) }), schedule.at(&place(1900)));
        }
    }

    #[test]
    fn the_fraction_is_the_larger_of_steps_and_time() {
        assert_eq!(place(500).fraction(), 0.25);
        assert_eq!(Place { time: 0.4, ..place(500) }.fraction(), 0.4);
        assert_eq!(Place { time: 1.4, ..place(500) }.fraction(), 1.0);
    }

    #[test]
    fn what_cannot_be_a_schedule_is_refused_by_field() {
        let refused = |schedule: Schedule, field: &str| assert!(schedule.validate().unwrap_err().contains(field), "{field}");
        for learning_rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            refused(Schedule { learning_rate, ..step() }, "schedule.learning_rate");
        }
        let decayed = |milestones: &[f64], factor| Schedule { decay: Decay::Step { milestones: milestones.into(), factor }, ..step() };
        refused(decayed(&[1.0], 0.0), "schedule.decay.factor");
        refused(decayed(&[1.0], 1.5), "schedule.decay.factor");
        refused(decayed(&[2.0, 1.0], 0.1), "schedule.decay.milestones");
        decayed(&[], 0.1).validate().unwrap();
    }
}
