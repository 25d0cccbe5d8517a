//! The largest message, list and body that the receiving side of each protocol takes.

/// Engines of one node in one message. Eight GPUs in eight slots fit eight times over.
pub const ENGINES_MAX: usize = 64;
/// GPUs of one node in one message.
pub const GPUS_MAX: usize = domain::gpu::GPUS_MAX;
/// Longest reason of a verdict, name or address of a GPU.
pub const GPU_TEXT_BYTES_MAX: usize = 1024;
/// Adapters of one engine in one message.
pub const ADAPTERS_MAX: usize = 256;
/// Tokenizer and chat template of one model; the largest known (Gemma 3) has 33 MB.
pub const ASSETS_BYTES_MAX: u64 = 64 << 20;
/// One chunk of assets.
pub const ASSETS_CHUNK_BYTES: usize = 256 << 10;
/// One message on a Blocks stream; a snapshot is cut into chunks of this size.
pub const BLOCKS_MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Keys that fit one Blocks message with room for its other fields.
pub const KEYS_PER_MESSAGE_MAX: usize = BLOCKS_MESSAGE_BYTES_MAX / 8 - 1024;
/// One gRPC message of any kind.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// One request body over HTTP. A 1M-token prompt as JSON text has about 5 MB.
pub const BODY_BYTES_MAX: usize = 32 << 20;
/// One line of `/trackside/v1/state`.
pub const STATE_LINE_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(ASSETS_CHUNK_BYTES < GRPC_MESSAGE_BYTES_MAX && BLOCKS_MESSAGE_BYTES_MAX < GRPC_MESSAGE_BYTES_MAX);
