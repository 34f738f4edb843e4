//! Pillow's `GaussianBlur`: three box blurs, whose box has a fractional radius so that any deviation can be met (Gwosdek
//! et al., Theoretical Foundations of Gaussian Convolution by Extended Box Filtering, SSVM 2011). Beyond the edge of the
//! picture, the pixel at the edge goes on.

/// A blur by a box whose rim counts by a fraction.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoxBlur {
    radius: f64,
}

impl BoxBlur {
    /// The one that blurs with this deviation if applied three times: equations 11 and 14 of the paper.
    pub(super) fn of_deviation(sigma: f64) -> Self {
        let variance = sigma * sigma / 3.0;
        let whole = (((12.0 * variance + 1.0).sqrt() - 1.0) / 2.0).floor();
        let next = whole + 1.0;
        let fraction = (2.0 * whole + 1.0) * (whole * next - 3.0 * variance) / (6.0 * (variance - next * next));
        Self { radius: whole + fraction }
    }

    /// Largest offset with a weight.
    pub(super) fn reach(self) -> usize {
        self.radius.floor() as usize + 1
    }

    /// Weight of a pixel at this distance.
    pub(super) fn weight(self, distance: usize) -> f32 {
        let share = (self.radius + 1.0 - distance as f64).clamp(0.0, 1.0);
        (share / (2.0 * self.radius + 1.0)) as f32
    }

    /// Blurs a square plane three times along its rows and three times along its columns.
    pub(super) fn three_times(self, plane: &mut [f32], side: usize) {
        let reach = self.reach();
        let weights: Vec<f32> = (0..=2 * reach).map(|i| self.weight(i.abs_diff(reach))).collect();
        // A line with the pixels beyond its edges, which stand for those at the edge.
        let mut padded = vec![0.0; side + 2 * reach];
        for row in plane.chunks_exact_mut(side) {
            for _ in 0..3 {
                padded[..reach].fill(row[0]);
                padded[reach..reach + side].copy_from_slice(row);
                padded[reach + side..].fill(row[side - 1]);
                row.fill(0.0);
                for (i, &weight) in weights.iter().enumerate() {
                    add_scaled(row, &padded[i..i + side], weight);
                }
            }
        }
        let mut before = vec![0.0; plane.len()];
        for _ in 0..3 {
            before.copy_from_slice(plane);
            for (y, row) in plane.chunks_exact_mut(side).enumerate() {
                row.fill(0.0);
                for (i, &weight) in weights.iter().enumerate() {
                    let from = (y + i).saturating_sub(reach).min(side - 1);
                    add_scaled(row, &before[from * side..(from + 1) * side], weight);
                }
            }
        }
    }
}

fn add_scaled(sums: &mut [f32], line: &[f32], weight: f32) {
    for (sum, &x) in sums.iter_mut().zip(line) {
        *sum += weight * x;
    }
}
