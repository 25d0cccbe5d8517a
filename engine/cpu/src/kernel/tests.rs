//! Kernels against plain arithmetic, and against each other bit for bit where the design promises it.

use engine::backend::BlockId;
use engine_assets::DType;
use half::{bf16, f16};

use super::attend::{Attend, Cache, Finish, Partials, StoreKv, scratch_len, splits};
use super::elementwise::{GateMul, RmsNorm};
use super::linear::{Linear, panel_len};
use super::*;

mod packed;

const DTYPES_ALL: [DType; DTYPES] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
];

fn kernels() -> impl Iterator<Item = &'static Kernels> {
    Isa::available().into_iter().map(|isa| Kernels::of(isa).unwrap())
}

/// Numbers without a pattern: the same for the same seed.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// In -1 .. 1.
    fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }

    /// A block with arbitrary numbers and small scales.
    fn block(&mut self, dtype: DType) -> Vec<u8> {
        let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| self.bits() as u8).collect();
        let halves: &[usize] = match dtype {
            DType::Q5_1 | DType::Q4_1 | DType::Q4K | DType::Q5K => &[0, 2],
            DType::Q6K => &[ggml::Q6_K_SCALE_AT],
            _ => &[0],
        };
        for at in halves {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(self.value() / 64.0).to_le_bytes());
        }
        block
    }

    /// Stored weights, and what they mean by GGML's definition of the type.
    fn weights(&mut self, dtype: DType, count: usize) -> (Vec<u8>, Vec<f32>) {
        let (mut stored, mut meant) = (Vec::new(), Vec::new());
        for _ in 0..count / dtype.block_len() {
            match dtype {
                DType::F32 => {
                    let value = self.value();
                    stored.extend(value.to_le_bytes());
                    meant.push(value);
                }
                DType::F16 => {
                    let value = f16::from_f32(self.value());
                    stored.extend(value.to_le_bytes());
                    meant.push(value.to_f32());
                }
                DType::BF16 => {
                    let value = bf16::from_f32(self.value());
                    stored.extend(value.to_le_bytes());
                    meant.push(value.to_f32());
                }
                DType::Q8_0 => {
                    let scale = f16::from_f32(self.value() / 64.0);
                    let quants: [i8; 32] = std::array::from_fn(|_| self.bits() as i8);
                    stored.extend(scale.to_le_bytes());
                    stored.extend(quants.map(|q| q as u8));
                    meant.extend(quants.map(|q| scale.to_f32() * f32::from(q)));
                }
                DType::Q5_0 | DType::Q5_1 | DType::Q4K | DType::Q5K | DType::Q6K => {
                    let block = self.block(dtype);
                    for part in 0..dtype.block_len() / 32 {
                        meant.extend(packed::expand(dtype)(&block, part));
                    }
                    stored.extend(block);
                }
                DType::Q4_0 | DType::Q4_1 => {
                    let (scale, minimum) = (f16::from_f32(self.value() / 8.0), f16::from_f32(self.value()));
                    let packed: [u8; 16] = std::array::from_fn(|_| self.bits() as u8);
                    stored.extend(scale.to_le_bytes());
                    if dtype == DType::Q4_1 {
                        stored.extend(minimum.to_le_bytes());
                    }
                    stored.extend(packed);
                    let quants = packed.map(|byte| byte & 15).into_iter().chain(packed.map(|byte| byte >> 4));
                    meant.extend(quants.map(|q| match dtype {
                        DType::Q4_0 => (f32::from(q) - 8.0) * scale.to_f32(),
                        _ => scale.to_f32() * f32::from(q) + minimum.to_f32(),
                    }));
                }
            }
        }
        (stored, meant)
    }
}

struct Product<'a> {
    kernels: &'a Kernels,
    dtype: DType,
    weights: &'a [u8],
    inputs: usize,
    outputs: usize,
}

impl Product<'_> {
    /// `[rows, outputs]`. `first` leaves out weight rows before it.
    fn of(&self, x: &[f32], first: usize, bias: Option<&[f32]>, add_to: Option<f32>) -> Vec<f32> {
        let rows = x.len() / self.inputs;
        let row_bytes = self.inputs / self.dtype.block_len() * self.dtype.block_bytes();
        assert_eq!(self.weights.len(), row_bytes * self.outputs);
        let outputs = self.outputs - first;
        let mut out = vec![add_to.unwrap_or(f32::NAN); rows * outputs];
        let mut panel = vec![f32::NAN; panel_len(self.inputs)];
        let args = Linear {
            weights: self.weights[first * row_bytes..].as_ptr(),
            row_bytes,
            inputs: self.inputs,
            outputs,
            x: x.as_ptr(),
            x_stride: self.inputs,
            rows,
            out: out.as_mut_ptr(),
            out_stride: outputs,
            bias: bias.map_or(std::ptr::null(), |bias| bias[first..].as_ptr()),
            add: add_to.is_some(),
            panel: panel.as_mut_ptr(),
        };
        // SAFETY: all vectors have the lengths that the fields say.
        unsafe { self.kernels.linear(self.dtype, rows)(&args) };
        out
    }
}

/// Bit for bit.
fn same(got: &[f32], expected: &[f32], context: &str) {
    assert_eq!(got.len(), expected.len(), "{context}");
    let differs = got.iter().zip(expected).position(|(got, expected)| got.to_bits() != expected.to_bits());
    if let Some(at) = differs {
        panic!("{context}: value {at} is {:e}, not {:e}", got[at], expected[at]);
    }
}

/// For one element type and size, on every instruction set: weights mean what their type says; a product is that of the expanded
/// weights bit for bit; it is the same alone, among any number of rows, and for any stretch of outputs; and it is close to f64's.
fn check_linear(dtype: DType, inputs: usize, outputs: usize) {
    let mut noise = Noise(inputs as u64);
    let (stored, meant) = noise.weights(dtype, inputs * outputs);
    let x = noise.values(40 * inputs);
    let bias = noise.values(outputs);
    let mut fused: Option<Vec<f32>> = None;
    for kernels in kernels() {
        let context = format!("{dtype} {outputs} × {inputs} on {}", kernels.isa);
        let row_bytes = stored.len() / outputs;
        let mut expanded = vec![f32::NAN; inputs * outputs];
        for row in 0..outputs {
            // SAFETY: one row of stored weights, room for one row of values.
            unsafe { kernels.expand(dtype)(stored[row * row_bytes..].as_ptr(), inputs, expanded[row * inputs..].as_mut_ptr()) };
        }
        same(&expanded, &meant, &format!("{context}: expanded"));

        let product = Product { kernels, dtype, weights: &stored, inputs, outputs };
        let plain = Product { dtype: DType::F32, weights: bytemuck::cast_slice(&meant), ..product };
        let alone: Vec<f32> = x.chunks(inputs).flat_map(|x| product.of(x, 0, Some(&bias), None)).collect();
        for rows in [1, 2, 3, 4, 5, 6, 7, 8, 13, 40] {
            let together = product.of(&x[..rows * inputs], 0, Some(&bias), None);
            same(&together, &alone[..rows * outputs], &format!("{context}: {rows} rows"));
            let of_plain = plain.of(&x[..rows * inputs], 0, Some(&bias), None);
            same(&of_plain, &together, &format!("{context}: {rows} rows of f32 weights"));
            let last = product.of(&x[..rows * inputs], outputs - 1, Some(&bias), None);
            let expected: Vec<f32> = together.iter().skip(outputs - 1).step_by(outputs).copied().collect();
            same(&last, &expected, &format!("{context}: the last output of {rows} rows"));
            let added = product.of(&x[..rows * inputs], 0, None, Some(0.5));
            let unbiased = product.of(&x[..rows * inputs], 0, None, None);
            assert!(added.iter().zip(&unbiased).all(|(added, value)| *added == value + 0.5), "{context}: added");
        }
        for (row, x) in x.chunks(inputs).enumerate() {
            for (output, weights) in meant.chunks(inputs).enumerate() {
                let exact: f64 =
                    weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() + f64::from(bias[output]);
                let size: f64 = weights.iter().zip(x).map(|(w, x)| f64::from(w * x).abs()).sum::<f64>() + 1.0;
                let got = f64::from(alone[row * outputs + output]);
                assert!((got - exact).abs() < 1e-6 * size, "{context}: {got} is not {exact}");
            }
        }
        if kernels.isa != Isa::Portable {
            same(&alone, fused.get_or_insert_with(|| alone.clone()), &format!("{context}: all with fused multiply-add agree"));
        }
    }
}

#[test]
fn products_depend_on_their_inputs_alone() {
    for dtype in DTYPES_ALL {
        for (inputs, outputs) in [(32, 1), (96, 7), (576, 26)] {
            check_linear(dtype, inputs.max(dtype.block_len()).next_multiple_of(dtype.block_len()), outputs);
        }
        if dtype.block_len() == 1 {
            for (inputs, outputs) in [(1, 3), (17, 5), (72, 25), (148, 9)] {
                check_linear(dtype, inputs, outputs);
            }
        }
    }
}

/// Queries, keys and values of one group of heads, contiguous.
struct Attention {
    group: usize,
    dim: usize,
    q: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    window: usize,
    dtype: KvDtype,
}

impl Attention {
    fn new(group: usize, dim: usize, positions: usize) -> Self {
        let mut noise = Noise((group * dim) as u64);
        let mut values = |heads: usize| noise.values(heads * dim * positions).iter().map(|value| value * 3.0).collect();
        Self { group, dim, q: values(group), keys: values(1), values: values(1), window: usize::MAX, dtype: KvDtype::Float32 }
    }

    /// Stored as `dtype`, which holds all keys and values as they are.
    fn stored(mut self, dtype: KvDtype) -> Self {
        if dtype == KvDtype::Float16 {
            self.keys.iter_mut().chain(&mut self.values).for_each(|value| *value = f16::from_f32(*value).to_f32());
        }
        Self { dtype, ..self }
    }

    /// The result for queries `position ..`, with the cache paged in blocks that lie in falling order; `apart` computes each split by
    /// itself and folds.
    fn compute(&self, kernels: &Kernels, block_tokens: usize, position: usize, tokens: usize, apart: bool) -> Vec<f32> {
        let Self { group, dim, dtype, window, .. } = *self;
        let positions = position + tokens;
        let blocks: Vec<BlockId> = (0..positions.div_ceil(block_tokens) as u32).rev().map(BlockId).collect();
        let half_bytes = block_tokens * dim * dtype.bytes();
        // What nobody wrote is no number in either type.
        let mut cache = vec![0xffu8; blocks.len() * 2 * half_bytes];
        for at in 0..positions {
            let keys = &raw mut cache[blocks[at / block_tokens].0 as usize * 2 * half_bytes];
            let args = StoreKv {
                k: self.keys[at * dim..].as_ptr(),
                v: self.values[at * dim..].as_ptr(),
                heads: 1,
                dim,
                keys,
                values: keys.wrapping_add(half_bytes),
                block_tokens,
                at: at % block_tokens,
            };
            // SAFETY: the block lies within the cache, and the position within the block.
            unsafe { (kernels.store_kv(dtype))(&args) };
        }
        let mut out = vec![f32::NAN; tokens * group * dim];
        let mut scratch = vec![f32::NAN; scratch_len(tokens * group, dim)];
        let splits = splits(position, tokens, window);
        let mut partials = vec![f32::NAN; splits.len() * Partials::len(tokens * group, dim)];
        let args = Attend {
            q: self.q[position * group * dim..].as_ptr(),
            q_stride: group * dim,
            tokens,
            group,
            dim,
            position,
            cache: Cache {
                keys: cache.as_ptr(),
                values: cache[half_bytes..].as_ptr(),
                block_bytes: 2 * half_bytes,
                block_tokens,
                blocks: blocks.as_ptr(),
            },
            scale: 1.0 / (dim as f32).sqrt(),
            window,
            splits: splits.clone(),
            partials: if apart { partials.as_mut_ptr() } else { std::ptr::null_mut() },
            out: out.as_mut_ptr(),
            out_stride: group * dim,
            scratch: scratch.as_mut_ptr(),
        };
        // SAFETY: all vectors have the lengths that the fields say, and the blocks cover all positions.
        unsafe { (kernels.attend(dtype))(&args) };
        if apart {
            let (partials, out) = (partials.as_mut_ptr(), out.as_mut_ptr());
            let args = Finish { partials, splits, tokens, group, dim, out, out_stride: group * dim };
            // SAFETY: as above.
            unsafe { (kernels.finish)(&args) };
        }
        out
    }

    /// The result for one position, by the definition, in f64.
    fn exact(&self, position: usize) -> Vec<f64> {
        let dim = self.dim;
        let dot = |q: &[f32], at: usize| -> f64 {
            q.iter().zip(&self.keys[at * dim..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        self.q[position * self.group * dim..][..self.group * dim]
            .chunks(dim)
            .flat_map(|q| {
                let seen = |at: usize| position < at.saturating_add(self.window);
                let weight = |at: usize| if seen(at) { (dot(q, at) / (dim as f64).sqrt()).exp() } else { 0.0 };
                let weights: Vec<f64> = (0..=position).map(weight).collect();
                let total: f64 = weights.iter().sum();
                let value =
                    |i: usize| weights.iter().enumerate().map(|(at, w)| w * f64::from(self.values[at * dim + i])).sum::<f64>();
                (0..dim).map(|i| value(i) / total).collect::<Vec<_>>()
            })
            .collect()
    }
}

fn check_attend(group: usize, dim: usize, positions: usize, window: usize, dtype: KvDtype) {
    let attention = Attention { window, ..Attention::new(group, dim, positions).stored(dtype) };
    let exact: Vec<Vec<f64>> = (0..positions).map(|position| attention.exact(position)).collect();
    let mut fused: Option<Vec<f32>> = None;
    for kernels in kernels() {
        let context = format!("{group} heads of {dim} over {positions} in {dtype}, window {window}, on {}", kernels.isa);
        let alone: Vec<f32> = (0..positions).flat_map(|position| attention.compute(kernels, 16, position, 1, false)).collect();
        for (at, (got, exact)) in alone.chunks(group * dim).zip(&exact).enumerate() {
            let close = got.iter().zip(exact).all(|(got, exact)| (f64::from(*got) - exact).abs() < 1e-5);
            assert!(close, "{context}, position {at}: {got:?} is not {exact:?}");
        }
        for (block_tokens, chunk, apart) in
            [(16, positions, false), (16, 7, true), (1, 5, false), (5, 3, true), (64, 16, false), (32, 1, true)]
        {
            let chunked: Vec<f32> = (0..positions)
                .step_by(chunk)
                .flat_map(|position| attention.compute(kernels, block_tokens, position, chunk.min(positions - position), apart))
                .collect();
            same(&chunked, &alone, &format!("{context}: chunks of {chunk}, blocks of {block_tokens}, apart: {apart}"));
        }
        if kernels.isa != Isa::Portable {
            same(&alone, fused.get_or_insert_with(|| alone.clone()), &format!("{context}: all with fused multiply-add agree"));
        }
    }
}

#[test]
fn attention_depends_on_its_own_context_alone() {
    for (group, dim, positions) in [(1, 16, 3), (2, 20, 40), (3, 64, 65), (4, 8, 33), (5, 128, 20), (7, 32, 40), (8, 256, 17)] {
        for window in [usize::MAX, 1, 7, 16, 33] {
            check_attend(group, dim, positions, window, KvDtype::Float32);
        }
        check_attend(group, dim, positions, usize::MAX, KvDtype::Float16);
    }
}

#[test]
fn attention_over_several_splits_is_folded_in_order() {
    for dtype in [KvDtype::Float32, KvDtype::Float16] {
        for window in [usize::MAX, 100, 128, 150] {
            check_attend(2, 16, 300, window, dtype);
        }
    }
}

fn close(got: f32, exact: f64, context: &dyn fmt::Display) {
    assert!((f64::from(got) - exact).abs() <= 4e-7 * exact.abs().max(1e-6), "{context}: {got} is not {exact}");
}

#[test]
fn silu_and_norm_are_what_their_definitions_say() {
    let mut noise = Noise(7);
    for kernels in kernels() {
        for len in [1, 15, 16, 72, 576] {
            let gate: Vec<f32> = noise.values(len).iter().map(|value| value * 40.0).collect();
            let (up, mut out) = (noise.values(len), vec![f32::NAN; len]);
            let args = GateMul { gate: gate.as_ptr(), up: up.as_ptr(), out: out.as_mut_ptr(), len };
            // SAFETY: all vectors are `len` long.
            unsafe { (kernels.silu_mul)(&args) };
            for i in 0..len {
                let (gate, up) = (f64::from(gate[i]), f64::from(up[i]));
                close(out[i], gate / (1.0 + (-gate).exp()) * up, &format!("silu of {gate} on {}", kernels.isa));
            }
            // SAFETY: as above.
            unsafe { (kernels.gelu_mul)(&args) };
            for i in 0..len {
                let (gate, up) = (f64::from(gate[i]), f64::from(up[i]));
                let u = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
                // For a falling tail `1 + tanh` cancels; the sigmoid does not.
                let exact = gate / (1.0 + (-2.0 * u).exp()) * up;
                let got = f64::from(out[i]);
                assert!(
                    (got - exact).abs() <= 4e-7 * exact.abs() + 1e-6,
                    "gelu of {gate} on {}: {got} is not {exact}",
                    kernels.isa
                );
            }
            let weight = noise.values(len);
            let args = RmsNorm { x: gate.as_ptr(), weight: weight.as_ptr(), epsilon: 1e-5, out: out.as_mut_ptr(), len };
            // SAFETY: all vectors are `len` long.
            unsafe { (kernels.rms_norm)(&args) };
            let mean = gate.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / len as f64;
            for i in 0..len {
                let exact = f64::from(gate[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                close(out[i], exact, &format!("norm of {len} on {}", kernels.isa));
            }
        }
    }
}

/// What is not a number must reach the logits, where it fails its own request.
#[test]
fn not_a_number_stays_one() {
    for kernels in kernels() {
        let (gate, up, mut out) = ([f32::NAN, 1.0, f32::INFINITY, -1e30], [1.0; 4], [0.0f32; 4]);
        let args = GateMul { gate: gate.as_ptr(), up: up.as_ptr(), out: out.as_mut_ptr(), len: 4 };
        // SAFETY: all arrays are four long.
        unsafe { (kernels.silu_mul)(&args) };
        assert!(
            out[0].is_nan() && out[1].is_finite() && out[2] == f32::INFINITY && out[3].abs() < 1e-6,
            "{out:?} on {}",
            kernels.isa
        );
        let mut attention = Attention::new(1, 16, 4);
        attention.keys[17] = f32::NAN;
        let out = attention.compute(kernels, 16, 0, 4, false);
        assert!(out[..16].iter().all(|value| value.is_finite()), "{}: a position sees a later key", kernels.isa);
        assert!(out[16..].iter().all(|value| value.is_nan()), "{}: a broken key is not seen", kernels.isa);
    }
}
