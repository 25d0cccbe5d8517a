//! What models are made of: layers that hold their weights on a device and know how to load and apply themselves.

pub mod attention;
pub mod decoder;
mod embedding;
pub mod experts;
mod linear;
mod low_rank;
pub mod mlp;
mod norm;
pub mod pre_norm;
pub mod rope;

pub use attention::Attention;
pub use decoder::Decoder;
pub use embedding::{Embedding, Head};
pub use experts::Experts;
pub use linear::{Linear, Split};
pub use mlp::Mlp;
pub use norm::{QkNorm, RmsNorm};
pub use pre_norm::{FeedForward, PreNorm};
