//! Uploaded text assets of any bytes: refused, or exactly what would have been written.
#![no_main]

use engine_assets::TextAssets;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(assets) = TextAssets::from_bytes(bytes) {
        assert_eq!(assets.to_bytes(), bytes);
        if let Ok(text) = engine_text::Text::new(&assets) {
            let _ = text.encode("Hello, world! 123 \u{1F682}", true).map(|ids| text.decode(&ids, false));
        }
    }
});
