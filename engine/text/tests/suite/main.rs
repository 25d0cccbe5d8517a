//! Text to tokens and back, chats to prompts, and stop strings: through the public door, against transformers where it has an answer.
#![forbid(unsafe_code)]

mod broken;
mod families;
mod golden;
mod messages;
mod reply;
mod stop;
mod stream;
mod template;
mod tokenizers;
