//! All of the engine's CPU unsafe: kernels, thread pool, mapped weights; implements engine::backend.
