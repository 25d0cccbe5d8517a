//! A model's own tokenizer and template, made from the bytes that its node uploads.

use std::sync::Arc;
use std::time::SystemTime;

use domain::AssetsDigest;
use engine_assets::{Digest, TextAssets};
use engine_text::{ChatRequest, Recall, Text};

use super::{Chat, PROMPT_BYTES_MAX, Prompt, Tokenise};

/// Makes a tokenizer of an upload, if the upload is what the digest says. The bytes may come from anybody.
pub fn read_assets(digest: AssetsDigest, bytes: &[u8]) -> Result<Arc<dyn Tokenise>, String> {
    let found = Digest::of(bytes);
    if found.0 != digest.0 {
        return Err(format!("the bytes have the digest {found}, not {digest}"));
    }
    let assets = TextAssets::from_bytes(bytes).map_err(|error| error.to_string())?;
    let text = Text::new(&assets).map_err(|error| error.to_string())?;
    Ok(Arc::new(text))
}

impl Tokenise for Text {
    fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, String> {
        let (text, add_special_tokens) = match prompt {
            Prompt::Unknown => return Err("the request has no prompt".to_owned()),
            Prompt::Tokens(tokens) => return Ok(tokens.clone()),
            Prompt::Text { text, add_special_tokens } => (std::borrow::Cow::Borrowed(text.as_str()), *add_special_tokens),
            Prompt::Chat(chat) => (render(self, chat)?.into(), chat.add_special_tokens),
        };
        if text.len() > PROMPT_BYTES_MAX {
            return Err(format!("the prompt has {} bytes; at most {PROMPT_BYTES_MAX} are tokenised for routing", text.len()));
        }
        self.encode(&text, add_special_tokens).map_err(|error| error.to_string())
    }

    fn recall(&self) -> Recall {
        Text::recall(self)
    }
}

fn render(text: &Text, chat: &Chat) -> Result<String, String> {
    let request = ChatRequest {
        messages: &chat.messages,
        tools: chat.tools.as_deref().unwrap_or_default(),
        documents: chat.documents.as_deref().unwrap_or_default(),
        add_generation_prompt: chat.add_generation_prompt,
        continue_final_message: chat.continue_final_message,
        template: chat.template.as_deref(),
        kwargs: Some(&chat.variables).filter(|variables| !variables.is_empty()),
        now: SystemTime::now(),
    };
    text.render_chat(&request).map_err(|error| error.to_string())
}
