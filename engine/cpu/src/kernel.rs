//! Kernels: what runs in the inner loops, once per instruction set, chosen when the engine starts.
//!
//! A kernel is written once, over [`simd::Simd`], and compiled for each instruction set by [`kernels!`]. Within one instruction set the
//! value of an output depends on its inputs alone: every dot product is sixteen chains of multiply-adds, input feature `k` in chain
//! `k mod 16` in rising order, then one fixed tree over the chains; attention is cut and folded by positions (see [`attend`]). How many rows
//! are computed at once, in which tiles and by how many threads, changes nothing.

pub(crate) mod attend;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod elementwise;
mod format;
pub(crate) mod ggml;
pub(crate) mod linear;
pub(crate) mod packed;
mod portable;
mod simd;

use std::fmt;

use engine_assets::DType;

use self::attend::{Attend, Finish, StoreKv};
use self::elementwise::{GateMul, RmsNorm, Rotate};
use self::linear::{Linear, PANEL_MIN_ROWS};
use self::packed::PackedLinear;
use self::packed::activation::Quantize;
pub(crate) use self::simd::BLOCK;
use crate::kv::KvDtype;

/// An instruction set for which kernels are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// plain Rust; any processor.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, besides all of the above.
    Avx512,
    /// x86-64 with AVX-512 VNNI and VL, besides all of the above: dot products of bytes in one instruction.
    Avx512Vnni,
    /// 64-bit Arm: packed products in NEON, all else in plain Rust that the compiler writes in it.
    Neon,
}

impl Isa {
    /// Those that this machine has, the fastest last.
    pub fn available() -> Vec<Self> {
        let mut available = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                available.push(Self::Avx2);
            }
            if avx2 && is_x86_feature_detected!("avx512f") {
                available.push(Self::Avx512);
                if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni") {
                    available.push(Self::Avx512Vnni);
                }
            }
        }
        if cfg!(target_arch = "aarch64") {
            available.push(Self::Neon);
        }
        available
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Avx512Vnni => "AVX-512 VNNI",
            Self::Neon => "NEON",
        })
    }
}

/// The kernels of one instruction set. Calling one needs a processor that has the set, and arguments as each kernel's own
/// documentation asks.
pub(crate) struct Kernels {
    pub isa: Isa,
    /// By element type, then by number of rows; 0 for any number.
    linear: [[unsafe fn(&Linear); PANEL_MIN_ROWS]; DTYPES],
    expand: [unsafe fn(*const u8, usize, *mut f32); DTYPES],
    /// By element type; of those that are not packed, a kernel that panics.
    packed: [unsafe fn(&PackedLinear); DTYPES],
    pub quantize: unsafe fn(&Quantize),
    /// By element type of the cache.
    attend: [unsafe fn(&Attend); KvDtype::COUNT],
    store_kv: [unsafe fn(&StoreKv); KvDtype::COUNT],
    pub finish: unsafe fn(&Finish),
    pub rms_norm: unsafe fn(&RmsNorm),
    pub silu_mul: unsafe fn(&GateMul),
    pub gelu_mul: unsafe fn(&GateMul),
    pub rotate: unsafe fn(&Rotate),
}

const DTYPES: usize = 11;

fn index(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        DType::Q8_0 => 3,
        DType::Q4_0 => 4,
        DType::Q4_1 => 5,
        DType::Q5_0 => 6,
        DType::Q5_1 => 7,
        DType::Q4K => 8,
        DType::Q5K => 9,
        DType::Q6K => 10,
    }
}

impl Kernels {
    /// The kernels of `isa`, if this machine can run them.
    pub fn of(isa: Isa) -> Option<&'static Self> {
        if !Isa::available().contains(&isa) {
            return None;
        }
        Some(match isa {
            Isa::Portable => &portable_kernels::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2_kernels::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &avx512_kernels::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => &avx512_vnni_kernels::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &neon_kernels::KERNELS,
            // Of another architecture: not among those available.
            _ => return None,
        })
    }

    /// The kernel for this many rows.
    pub fn linear(&self, dtype: DType, rows: usize) -> unsafe fn(&Linear) {
        self.linear[index(dtype)][if rows < PANEL_MIN_ROWS { rows } else { 0 }]
    }

    pub fn attend(&self, dtype: KvDtype) -> unsafe fn(&Attend) {
        self.attend[dtype as usize]
    }

    pub fn store_kv(&self, dtype: KvDtype) -> unsafe fn(&StoreKv) {
        self.store_kv[dtype as usize]
    }

    /// The kernel for weights of a type that [`packing`](packed::pack::packing) knows.
    pub fn packed(&self, dtype: DType) -> unsafe fn(&PackedLinear) {
        self.packed[index(dtype)]
    }

    /// Expands this many stored weights to f32: `(stored, weights, out)`.
    pub fn expand(&self, dtype: DType) -> unsafe fn(*const u8, usize, *mut f32) {
        self.expand[index(dtype)]
    }
}

macro_rules! kernels {
    ($module:ident, $isa:expr, $simd:ty, $lanes:ty $(, #[$feature:meta])?) => {
        mod $module {
            use half::f16;

            use super::attend::Stored;
            use super::format::{BF16, F16, F32, Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
            use super::packed::format::{self, Packed};
            use super::*;

            $(#[$feature])?
            unsafe fn direct<F: Format, const M: usize, const N: usize>(args: &Linear) {
                // SAFETY: the caller's promises are those of `linear::direct`.
                unsafe { linear::direct::<$simd, F, M, N>(args) }
            }
            $(#[$feature])?
            unsafe fn panels<F: Format>(args: &Linear) {
                // SAFETY: the caller's promises are those of `linear::panels`.
                unsafe { linear::panels::<$simd, F>(args) }
            }
            const fn by_rows<F: Format>() -> [unsafe fn(&Linear); PANEL_MIN_ROWS] {
                // Plain Rust over sixteen lanes takes the compiler long for every tile, and who runs it is not in a hurry.
                if !<$simd as simd::Simd>::TILES {
                    return [panels::<F>; PANEL_MIN_ROWS];
                }
                [
                    panels::<F>,
                    direct::<F, 1, 3>,
                    direct::<F, 2, 2>,
                    direct::<F, 3, 1>,
                    direct::<F, 4, 1>,
                    direct::<F, 5, 1>,
                    direct::<F, 6, 1>,
                ]
            }
            $(#[$feature])?
            unsafe fn packed<F: Packed>(args: &PackedLinear) {
                // SAFETY: the caller's promises are those of `packed::linear`.
                unsafe { packed::linear::<$lanes, F>(args) }
            }
            unsafe fn unpacked(_: &PackedLinear) {
                unreachable!("element types are multiplied as they are stored");
            }
            $(#[$feature])?
            unsafe fn quantize(args: &Quantize) {
                // SAFETY: the caller's promises are those of `quantize`.
                unsafe { packed::activation::quantize(args) }
            }
            $(#[$feature])?
            unsafe fn expand<F: Format>(stored: *const u8, weights: usize, out: *mut f32) {
                // SAFETY: the caller's promises are those of `linear::expand`.
                unsafe { linear::expand::<$simd, F>(stored, weights, out) }
            }
            $(#[$feature])?
            unsafe fn attend<E: Stored>(args: &Attend) {
                // SAFETY: the caller's promises are those of `attend::run`.
                unsafe { attend::run::<$simd, E>(args) }
            }
            $(#[$feature])?
            unsafe fn store_kv<E: Stored>(args: &StoreKv) {
                // SAFETY: the caller's promises are those of `attend::store_kv`.
                unsafe { attend::store_kv::<$simd, E>(args) }
            }
            $(#[$feature])?
            unsafe fn finish(args: &Finish) {
                // SAFETY: the caller's promises are those of `attend::finish`.
                unsafe { attend::finish::<$simd>(args) }
            }
            $(#[$feature])?
            unsafe fn rms_norm(args: &RmsNorm) {
                // SAFETY: the caller's promises are those of `elementwise::rms_norm`.
                unsafe { elementwise::rms_norm::<$simd>(args) }
            }
            $(#[$feature])?
            unsafe fn silu_mul(args: &GateMul) {
                // SAFETY: the caller's promises are those of `elementwise::gate_mul`.
                unsafe { elementwise::gate_mul::<$simd, false>(args) }
            }
            $(#[$feature])?
            unsafe fn gelu_mul(args: &GateMul) {
                // SAFETY: the caller's promises are those of `elementwise::gate_mul`.
                unsafe { elementwise::gate_mul::<$simd, true>(args) }
            }
            $(#[$feature])?
            unsafe fn rotate(args: &Rotate) {
                // SAFETY: the caller's promises are those of `elementwise::rotate`.
                unsafe { elementwise::rotate(args) }
            }

            pub(super) static KERNELS: Kernels = Kernels {
                isa: $isa,
                linear: [
                    by_rows::<F32>(),
                    by_rows::<F16>(),
                    by_rows::<BF16>(),
                    by_rows::<Q8_0>(),
                    by_rows::<Q4_0>(),
                    by_rows::<Q4_1>(),
                    [panels::<Q5_0>; PANEL_MIN_ROWS],
                    [panels::<Q5_1>; PANEL_MIN_ROWS],
                    [panels::<Q4K>; PANEL_MIN_ROWS],
                    [panels::<Q5K>; PANEL_MIN_ROWS],
                    [panels::<Q6K>; PANEL_MIN_ROWS],
                ],
                expand: [
                    expand::<F32>,
                    expand::<F16>,
                    expand::<BF16>,
                    expand::<Q8_0>,
                    expand::<Q4_0>,
                    expand::<Q4_1>,
                    expand::<Q5_0>,
                    expand::<Q5_1>,
                    expand::<Q4K>,
                    expand::<Q5K>,
                    expand::<Q6K>,
                ],
                packed: [
                    unpacked,
                    unpacked,
                    unpacked,
                    packed::<format::Q8_0>,
                    packed::<format::Q4_0>,
                    packed::<format::Q4_1>,
                    packed::<format::Q5_0>,
                    packed::<format::Q5_1>,
                    packed::<format::Q4K>,
                    packed::<format::Q5K>,
                    packed::<format::Q6K>,
                ],
                quantize,
                attend: [attend::<f32>, attend::<f16>],
                store_kv: [store_kv::<f32>, store_kv::<f16>],
                finish,
                rms_norm,
                silu_mul,
                gelu_mul,
                rotate,
            };
        }
    };
}

kernels!(portable_kernels, Isa::Portable, portable::Portable, packed::portable::Portable);
#[cfg(target_arch = "x86_64")]
kernels!(avx2_kernels, Isa::Avx2, avx2::Avx2, packed::avx2::Avx2, #[target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
kernels!(avx512_kernels, Isa::Avx512, avx512::Avx512, packed::avx2::Avx2, #[target_feature(enable = "avx512f,avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512_vnni_kernels,
    Isa::Avx512Vnni,
    avx512::Avx512,
    packed::vnni::Vnni,
    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c")]
);
#[cfg(target_arch = "aarch64")]
kernels!(neon_kernels, Isa::Neon, portable::Portable, packed::neon::Neon, #[target_feature(enable = "neon")]);

#[cfg(test)]
mod tests;
