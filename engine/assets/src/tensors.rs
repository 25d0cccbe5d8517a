//! Where each tensor lies: file, type, shape and byte range, under its Hugging Face name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Element types whose values the engine can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    F32,
    F16,
    BF16,
    /// GGML: 32 weights in 34 bytes: f16 scale, 32 × i8.
    Q8_0,
    /// GGML: 32 weights in 18 bytes: f16 scale, 16 bytes of nibbles; value = scale × (nibble − 8).
    Q4_0,
    /// GGML: 32 weights in 20 bytes: f16 scale, f16 minimum, 16 bytes of nibbles; value = scale × nibble + minimum.
    Q4_1,
    /// GGML: 32 weights in 22 bytes: f16 scale, 32 fifth bits, 16 bytes of nibbles; value = scale × (q − 16).
    Q5_0,
    /// GGML: 32 weights in 24 bytes: f16 scale, f16 minimum, 32 fifth bits, 16 bytes of nibbles; value = scale × q + minimum.
    Q5_1,
    /// GGML: 256 weights in 144 bytes: two f16, eight scales and minima of six bits, 128 bytes of nibbles.
    Q4K,
    /// GGML: 256 weights in 176 bytes: as Q4_K with 32 bytes of fifth bits.
    Q5K,
    /// GGML: 256 weights in 210 bytes: nibbles, two bits more each, sixteen signed scales, f16.
    Q6K,
}

impl DType {
    /// Weights per block: rows are a whole number of blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// The nearest number of this type, of two the even one, if it is a type of plain numbers; `value` otherwise.
    pub(crate) fn round(self, value: f32) -> f32 {
        // How many of f32's 23 bits behind the point the type lacks. Factors are far from the ends of its range.
        let lost = match self {
            Self::F16 => 13,
            Self::BF16 => 16,
            _ => return value,
        };
        let bits = value.to_bits();
        let half = (1 << (lost - 1)) - 1 + (bits >> lost & 1);
        f32::from_bits((bits + half) >> lost << lost)
    }

    /// Bytes of a tensor of this shape (row-major, blocks along the last dimension), or why it has none.
    pub(crate) fn tensor_bytes(self, shape: &[usize]) -> Result<u64, String> {
        let columns = shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(self.block_len()) {
            return Err(format!("rows of {columns} are no whole number of {self} blocks of {}", self.block_len()));
        }
        shape
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim as u64))
            .map(|weights| weights / self.block_len() as u64)
            .and_then(|blocks| blocks.checked_mul(self.block_bytes() as u64))
            .ok_or_else(|| format!("shape {shape:?} overflows 64 bits"))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Q4K => f.write_str("Q4_K"),
            Self::Q5K => f.write_str("Q5_K"),
            Self::Q6K => f.write_str("Q6_K"),
            other => fmt::Debug::fmt(other, f),
        }
    }
}

/// One tensor's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Index into [`TensorIndex::files`].
    pub file: usize,
    pub dtype: DType,
    /// Row-major, `[rows (out), columns (in)]` for a matrix, `[n]` for a vector: Hugging Face's order.
    pub shape: Vec<usize>,
    /// Absolute byte offset in the file; offset + bytes lies within it.
    pub offset: u64,
    pub bytes: u64,
}

impl TensorInfo {
    /// `parts` equal tensors that lie one after the other in this one, along its first dimension of that length.
    pub(crate) fn split(&self, parts: usize) -> impl Iterator<Item = Self> {
        let bytes = self.bytes / parts.max(1) as u64;
        let shape = self.shape.get(1..).unwrap_or_default();
        (0..parts as u64).map(move |part| Self { shape: shape.to_vec(), offset: self.offset + part * bytes, bytes, ..*self })
    }
}

/// All tensors that the architecture reads. Those it does not are in the warnings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorIndex {
    pub files: Vec<PathBuf>,
    /// By Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub by_name: BTreeMap<String, TensorInfo>,
}

impl TensorIndex {
    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name)
    }

    /// The embedding, where the head has weights of its own: rows of it are read, it is never multiplied.
    pub fn looked_up_only(&self) -> Option<&TensorInfo> {
        self.get("lm_head.weight").and_then(|_| self.get("model.embed_tokens.weight"))
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.by_name.values().map(|tensor| tensor.bytes).sum()
    }
}
