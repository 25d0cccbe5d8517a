//! Packed products against the sum that they are defined to be, bit for bit; block types against the `gguf` package's reading of them.

use super::super::packed::activation::{ActivationBlock, Quantize, ROWS, blocks_len};
use super::super::packed::lanes::OUTPUTS;
use super::super::packed::pack::packing;
use super::super::packed::{PackedLinear, STRIP_ALIGN};
use super::*;

const PACKED: [DType; 8] = [DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q4K, DType::Q5K, DType::Q6K];

/// The plain reading of a type that has no reading of its own per instruction set.
pub(super) fn expand(dtype: DType) -> fn(&[u8], usize) -> [f32; 32] {
    match dtype {
        DType::Q5_0 => ggml::expand_q5_0,
        DType::Q5_1 => ggml::expand_q5_1,
        DType::Q4K => ggml::expand_q4_k,
        DType::Q5K => ggml::expand_q5_k,
        DType::Q6K => ggml::expand_q6_k,
        other => panic!("{other} is read by kernels"),
    }
}

/// `tests/parity/ggml_blocks.py` makes the fixture with the Python package 0.19.
#[test]
fn block_types_mean_what_the_gguf_package_says() {
    #[derive(serde::Deserialize)]
    struct Golden {
        dtype: String,
        stored: String,
        bits: Vec<u32>,
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/ggml/blocks.json");
    let goldens: Vec<Golden> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(goldens.len(), 5);
    for Golden { dtype: name, stored, bits } in goldens {
        let dtype = PACKED.into_iter().find(|dtype| dtype.to_string() == name).unwrap();
        let stored: Vec<u8> =
            (0..stored.len()).step_by(2).map(|at| u8::from_str_radix(&stored[at..at + 2], 16).unwrap()).collect();
        let expected: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for kernels in kernels() {
            let mut got = vec![f32::NAN; expected.len()];
            // SAFETY: the stored blocks are so many values, and there is room for them.
            unsafe { kernels.expand(dtype)(stored.as_ptr(), got.len(), got.as_mut_ptr()) };
            // Zero times a negative scale has either sign.
            let same = got.iter().zip(&expected).all(|(got, expected)| got == expected);
            assert!(same, "{name} on {}", kernels.isa);
        }
    }
}

/// A row of activations by the definition: `[(q, scale)]` per block.
fn quantized(x: &[f32]) -> Vec<([i32; 32], f32)> {
    let block = |x: &[f32]| {
        let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        (std::array::from_fn(|i| (x[i] * inverse).round_ties_even() as i32), largest / 127.0)
    };
    x.chunks(32).map(block).collect()
}

/// One step of an output's chain, by each type's definition: 32 stored weights, number `part` of their block, and a block of `x`.
fn step(dtype: DType, block: &[u8], part: usize, (x, x_scale): &([i32; 32], f32), sum: f32) -> f32 {
    let half = |at| ggml::half(block, at);
    let dot = |q: &dyn Fn(usize) -> i32| (0..32).map(|i| q(i) * x[i]).sum::<i32>() as f32;
    let nibble = |from: usize, i: usize| i32::from(if i < 16 { block[from + i] & 15 } else { block[from + i - 16] >> 4 });
    let of_x = x_scale * x.iter().sum::<i32>() as f32;
    let scaled = |dot: f32, scale: f32| dot.mul_add(scale * x_scale, sum);
    let numbers = |numbers: [u8; 32], offset: i32| move |i: usize| i32::from(numbers[i]) - offset;
    match dtype {
        DType::Q8_0 => scaled(dot(&|i| i32::from(block[2 + i] as i8)), half(0)),
        DType::Q4_0 => scaled(dot(&|i| nibble(2, i) - 8), half(0)),
        DType::Q4_1 => half(2).mul_add(of_x, scaled(dot(&|i| nibble(4, i)), half(0))),
        DType::Q5_0 => scaled(dot(&numbers(ggml::q5_0(block), 16)), half(0)),
        DType::Q5_1 => half(2).mul_add(of_x, scaled(dot(&numbers(ggml::q5_1(block), 0)), half(0))),
        DType::Q4K | DType::Q5K => {
            let q = if dtype == DType::Q4K { ggml::q4_k(block, part) } else { ggml::q5_k(block, part) };
            let (scale, minimum) = ggml::scale_and_minimum(block, part);
            let first = scaled(dot(&numbers(q, 0)), half(0) * f32::from(scale));
            (-(half(2) * f32::from(minimum))).mul_add(of_x, first)
        }
        DType::Q6K => {
            let (q, scales) = (numbers(ggml::q6_k(block, part), 32), ggml::q6_k_scales(block, part));
            scaled(dot(&|i| q(i) * i32::from(scales[i / 16])), half(ggml::Q6_K_SCALE_AT))
        }
        other => panic!("{other} is not packed"),
    }
}

struct PackedProduct {
    dtype: DType,
    /// Strips, at a cache line.
    strips: Vec<u8>,
    first: usize,
    strip_bytes: usize,
    blocks: usize,
    outputs: usize,
}

impl PackedProduct {
    fn new(dtype: DType, stored: &[u8], blocks: usize, outputs: usize) -> Self {
        let packing = packing(dtype).unwrap();
        let strip_bytes = (packing.strip_bytes)(blocks);
        let mut strips = vec![0; outputs.div_ceil(OUTPUTS) * strip_bytes + STRIP_ALIGN];
        let first = strips.as_ptr().align_offset(STRIP_ALIGN);
        let rows: Vec<&[u8]> = stored.chunks(stored.len() / outputs).collect();
        for (strip, out) in strips[first..].chunks_exact_mut(strip_bytes).take(outputs.div_ceil(OUTPUTS)).enumerate() {
            let rows = std::array::from_fn(|output| rows[(strip * OUTPUTS + output).min(outputs - 1)]);
            (packing.pack)(&rows, blocks, out);
        }
        Self { dtype, strips, first, strip_bytes, blocks, outputs }
    }

    fn of(&self, kernels: &Kernels, x: &[f32], bias: Option<&[f32]>, add_to: Option<f32>) -> Vec<f32> {
        let (rows, blocks, outputs) = (x.len() / (32 * self.blocks), self.blocks, self.outputs);
        let mut quantized: Vec<ActivationBlock> = vec![bytemuck::Zeroable::zeroed(); blocks_len(rows, blocks)];
        for (row, x) in x.chunks(32 * blocks).enumerate() {
            let out = &mut quantized[row / ROWS * ROWS * blocks + row % ROWS];
            // SAFETY: there is room for the row's blocks from this one on.
            unsafe { (kernels.quantize)(&Quantize { x: x.as_ptr(), blocks, out }) };
        }
        let mut out = vec![add_to.unwrap_or(f32::NAN); rows * outputs];
        let args = PackedLinear {
            strips: self.strips[self.first..].as_ptr(),
            strip_bytes: self.strip_bytes,
            blocks,
            outputs,
            x: quantized.as_ptr(),
            rows,
            out: out.as_mut_ptr(),
            out_stride: outputs,
            bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
            add: add_to.is_some(),
        };
        // SAFETY: all vectors have the lengths that the fields say.
        unsafe { kernels.packed(self.dtype)(&args) };
        out
    }
}

/// On every instruction set and for any number of rows the product is the chain of its definition, and not far from f64's with the
/// weights and activations as they were.
fn check_packed(dtype: DType, inputs: usize, outputs: usize) {
    let mut noise = Noise(inputs as u64 ^ outputs as u64);
    let (stored, meant) = noise.weights(dtype, inputs * outputs);
    let x: Vec<f32> = noise.values(11 * inputs).iter().enumerate().map(|(i, x)| x * (1 + i / 32 % 5) as f32).collect();
    let bias = noise.values(outputs);
    let mut expected = Vec::new();
    for x in x.chunks(inputs) {
        let blocks = quantized(x);
        for (output, row) in stored.chunks(stored.len() / outputs).enumerate() {
            let parts = dtype.block_len() / 32;
            let sum = blocks.iter().enumerate().fold(0.0, |sum, (at, x)| {
                step(dtype, &row[at / parts * dtype.block_bytes()..][..dtype.block_bytes()], at % parts, x, sum)
            });
            expected.push(sum + bias[output]);
        }
        let row = &expected[expected.len() - outputs..];
        for (output, weights) in meant.chunks(inputs).enumerate() {
            let exact: f64 =
                weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() + f64::from(bias[output]);
            let squares = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            // Rounding moves each activation by at most 1/254 of its block's largest; errors of single products are independent.
            let bound = 6.0 * 5.0 / 254.0 / 3f64.sqrt() * squares(weights).sqrt() + 1e-4;
            assert!((f64::from(row[output]) - exact).abs() < bound, "{dtype}: {} is not {exact}", row[output]);
        }
    }
    let product = PackedProduct::new(dtype, &stored, inputs / 32, outputs);
    for kernels in kernels() {
        let context = format!("{dtype} {outputs} × {inputs} on {}", kernels.isa);
        for rows in [1, 2, 3, 4, 5, 7, 8, 11] {
            let got = product.of(kernels, &x[..rows * inputs], Some(&bias), None);
            same(&got, &expected[..rows * outputs], &format!("{context}: {rows} rows"));
        }
        let (added, plain) = (product.of(kernels, &x, None, Some(0.5)), product.of(kernels, &x, None, None));
        assert!(added.iter().zip(&plain).all(|(added, value)| *added == value + 0.5), "{context}: added");
    }
}

#[test]
fn packed_products_are_one_chain_on_every_instruction_set() {
    for dtype in PACKED {
        for (blocks, outputs) in [(1, 1), (3, 8), (18, 21), (48, 16), (5, 61)] {
            check_packed(dtype, 32 * usize::next_multiple_of(blocks, dtype.block_len() / 32), outputs);
        }
    }
}

/// The largest numbers that a type and an activation can hold: nothing overflows on the way.
#[test]
fn extremes_do_not_overflow() {
    for dtype in PACKED {
        for byte in [0xff, 0x80, 0x7f, 0x00] {
            let mut block = vec![byte; dtype.block_bytes()];
            for at in if dtype == DType::Q6K { [208, 208] } else { [0, 2] } {
                if at == 0 || dtype != DType::Q8_0 && dtype != DType::Q4_0 && dtype != DType::Q5_0 {
                    block[at..at + 2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
                }
            }
            let inputs = dtype.block_len();
            let product = PackedProduct::new(dtype, &block, inputs / 32, 1);
            for sign in [1.0f32, -1.0] {
                let x = vec![sign; inputs];
                let chain = |sum, (at, x): (usize, &([i32; 32], f32))| step(dtype, &block, at, x, sum);
                let expected = quantized(&x).iter().enumerate().fold(0.0, chain);
                for kernels in kernels() {
                    same(&product.of(kernels, &x, None, None), &[expected], &format!("{dtype} of {byte} on {}", kernels.isa));
                }
            }
        }
    }
}

/// What is not a number must reach the logits, where it fails its own request, and no other row.
#[test]
fn not_a_number_stays_in_its_row() {
    for dtype in PACKED {
        let mut noise = Noise(3);
        let inputs = 2 * dtype.block_len();
        let (stored, _) = noise.weights(dtype, inputs * 9);
        let mut x = noise.values(2 * inputs);
        x[40] = f32::NAN;
        let product = PackedProduct::new(dtype, &stored, inputs / 32, 9);
        for kernels in kernels() {
            let out = product.of(kernels, &x, None, None);
            assert!(out[..9].iter().all(|value| value.is_nan()), "{dtype} on {}: lost", kernels.isa);
            assert!(out[9..].iter().all(|value| value.is_finite()), "{dtype} on {}: spread", kernels.isa);
        }
    }
}
