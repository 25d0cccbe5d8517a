//! Mixture of experts: which experts a token goes to, and the products of the tokens that each expert has.

use engine::device::Write;

use super::{CpuDevice, linear::products};
use crate::buffer::{Activation, Shared};
use crate::weights::Matrix;

/// The choice of the last [`route`]. Its vectors have room for the largest batch from the start.
pub struct Routing {
    experts: usize,
    per_token: usize,
    /// `[tokens, per_token]`: in rising order of experts.
    choices: Vec<Choice>,
    /// The token of each assignment, grouped by expert.
    tokens: Vec<u32>,
    /// Where the assignments of each expert begin, and after the last one where they end; `experts + 1` of them.
    starts: Vec<u32>,
    /// One token's experts, best first.
    best: Vec<(u32, f32)>,
}

#[derive(Clone, Copy)]
struct Choice {
    expert: u32,
    weight: f32,
    /// The row of this pair of token and expert.
    assignment: u32,
}

impl Routing {
    pub fn new(experts: usize, per_token: usize, tokens_max: usize) -> Self {
        Self {
            experts,
            per_token,
            choices: Vec::with_capacity(tokens_max * per_token),
            tokens: Vec::with_capacity(tokens_max * per_token),
            starts: Vec::with_capacity(experts + 1),
            best: Vec::with_capacity(experts),
        }
    }

    /// Sorts the choices into assignments: counts of experts become their beginnings, then each choice takes its expert's next row.
    fn assign(&mut self) {
        let Self { choices, tokens, starts, per_token, experts, .. } = self;
        starts.clear();
        starts.resize(*experts + 1, 0);
        for choice in choices.iter() {
            starts[choice.expert as usize + 1] += 1;
        }
        for expert in 0..*experts {
            starts[expert + 1] += starts[expert];
        }
        tokens.clear();
        tokens.resize(choices.len(), 0);
        for (number, choice) in choices.iter_mut().enumerate() {
            let next = &mut starts[choice.expert as usize];
            choice.assignment = *next;
            tokens[*next as usize] = (number / *per_token) as u32;
            *next += 1;
        }
        // Each beginning has moved to its end, which is the next one's beginning.
        starts.copy_within(0..*experts, 1);
        starts[0] = 0;
    }
}

pub fn route(logits: &Activation, renormalise: bool, routing: &mut Routing) {
    assert!(logits.features() == routing.experts && (1..=routing.experts).contains(&routing.per_token));
    routing.choices.clear();
    for row in 0..logits.rows() {
        let logits = logits.row(row);
        let best = &mut routing.best;
        best.clear();
        best.extend((0u32..).zip(logits.iter().copied()));
        // Not-a-number sorts somewhere, and reaches the token's own result through its weight.
        let better = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if routing.per_token < best.len() {
            best.select_nth_unstable_by(routing.per_token, better);
        }
        best[..routing.per_token].sort_unstable_by(better);
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        best.truncate(routing.per_token);
        best.iter_mut().for_each(|(_, logit)| *logit = (*logit - largest).exp() / sum);
        let total: f32 = if renormalise { best.iter().map(|(_, weight)| weight).sum() } else { 1.0 };
        best.sort_unstable_by_key(|(expert, _)| *expert);
        let choice = |&(expert, weight): &(u32, f32)| Choice { expert, weight: weight / total, assignment: 0 };
        routing.choices.extend(best.iter().map(choice));
    }
    routing.assign();
}

pub fn dispatch(device: &mut CpuDevice, routing: &Routing, x: &Activation, out: &mut Activation) {
    let len = x.features();
    assert!(out.features() == len && routing.choices.len() == x.rows() * routing.per_token);
    out.resize(routing.tokens.len());
    let out_stride = out.stride();
    let to = Shared::new(out.as_mut_ptr());
    device.each_row(routing.tokens.len(), len, |row| {
        let from = x.row(routing.tokens[row] as usize);
        // SAFETY: `out` has this row, of `len` values; each row is one call's.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.get().add(row * out_stride), len) };
    });
}

pub fn linear(device: &mut CpuDevice, routing: &Routing, weights: &[Matrix], x: &Activation, out: &mut Activation) {
    assert!(weights.len() == routing.experts && x.rows() == routing.tokens.len());
    out.resize(x.rows());
    products(device, weights, None, x, &routing.starts, out, Write::Set);
}

pub fn combine(device: &mut CpuDevice, routing: &Routing, x: &Activation, out: &mut Activation) {
    let (len, per_token) = (x.features(), routing.per_token);
    assert!(out.features() == len && out.rows() * per_token == routing.choices.len() && x.rows() == routing.choices.len());
    let out_stride = out.stride();
    let (tokens, to) = (out.rows(), Shared::new(out.as_mut_ptr()));
    device.each_row(tokens, len * per_token, |token| {
        let choices = &routing.choices[token * per_token..][..per_token];
        // SAFETY: `out` has this row, of `len` values; each row is one call's.
        let out = unsafe { std::slice::from_raw_parts_mut(to.get().add(token * out_stride), len) };
        for (at, out) in out.iter_mut().enumerate() {
            let sum = choices.iter().fold(0.0, |sum, choice| sum + choice.weight * x.row(choice.assignment as usize)[at]);
            *out += sum;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(experts: usize, per_token: usize, renormalise: bool, logits: &[&[f32]]) -> Routing {
        let mut routing = Routing::new(experts, per_token, logits.len());
        let mut activation = Activation::new(logits.len(), experts);
        activation.resize(logits.len());
        logits.iter().enumerate().for_each(|(row, logits)| activation.row_mut(row).copy_from_slice(logits));
        route(&activation, renormalise, &mut routing);
        routing
    }

    /// By hand: ln 1, ln 2, ln 5 are probabilities of 1/8, 2/8 and 5/8.
    #[test]
    fn the_best_experts_are_chosen_and_grouped() {
        let (one, two, five) = (0.0f32, 2f32.ln(), 5f32.ln());
        for (renormalise, weights) in [(false, [0.625, 0.25]), (true, [5.0 / 7.0, 2.0 / 7.0])] {
            let routing = routed(3, 2, renormalise, &[&[two, one, five], &[five, two, one], &[one, one, five]]);
            assert_eq!(routing.starts, [0, 3, 4, 6], "expert 0 has every token: of equals the first is chosen");
            assert_eq!(routing.tokens, [0, 1, 2, 1, 0, 2]);
            let first: Vec<(u32, u32)> = routing.choices.iter().map(|choice| (choice.expert, choice.assignment)).collect();
            assert_eq!(first, [(0, 0), (2, 4), (0, 1), (1, 3), (0, 2), (2, 5)]);
            let close = |got: f32, expected: f32| assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
            close(routing.choices[1].weight, weights[0]);
            close(routing.choices[0].weight, weights[1]);
        }
    }

    #[test]
    fn not_a_number_concerns_its_own_token_alone() {
        let routing = routed(3, 2, true, &[&[f32::NAN, 1.0, 2.0], &[0.0, 1.0, 2.0]]);
        assert!(routing.choices[..2].iter().any(|choice| choice.weight.is_nan()));
        assert!(routing.choices[2..].iter().all(|choice| choice.weight.is_finite()));
    }
}
