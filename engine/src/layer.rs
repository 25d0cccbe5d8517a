//! What models are made of: layers that hold their weights on a device and know how to load and apply themselves.

pub mod attention;
mod embedding;
mod linear;
pub mod mlp;
mod norm;
pub mod rope;

pub use attention::Attention;
pub use embedding::{Embedding, Head};
pub use linear::{Linear, Split};
pub use mlp::Mlp;
pub use norm::RmsNorm;
