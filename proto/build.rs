//! Compiles the protocol without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=trackside");
    let descriptors = protox::compile(["trackside/v1/node.proto"], ["."])?;
    tonic_prost_build::configure().bytes(".trackside.v1.AssetsChunk.data").compile_fds(descriptors)?;
    Ok(())
}
