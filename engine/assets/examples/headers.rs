//! Prints what the headers of a model say: `cargo run -p engine-assets --example headers -- MODEL`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: headers MODEL (a Hugging Face folder or a .gguf file)");
        return ExitCode::from(2);
    };
    match engine_assets::open(path.as_ref()) {
        Ok(model) => {
            println!("{:#?}", model.config);
            println!("{:#?}", model.generation);
            println!("{} tensors, {} bytes", model.tensors.by_name.len(), model.tensors.total_bytes());
            println!("text assets {}", model.text.digest());
            model.warnings.iter().for_each(|warning| println!("warning: {warning}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
