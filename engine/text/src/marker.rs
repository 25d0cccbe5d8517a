//! Markers in text that arrives character by character.

/// Looks for the first of some markers in a growing text, and holds back what may be the beginning of one.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    markers: Vec<&'static str>,
    held: String,
}

/// What a character led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// Nothing is certain yet.
    Nothing,
    /// This much is text and no marker.
    Text(&'a str),
    /// Behind this much text, this marker.
    Marker(&'a str, &'static str),
}

impl Search {
    /// A search for `markers`, none of which may be empty or the beginning of another.
    pub fn new(markers: impl IntoIterator<Item = &'static str>) -> Self {
        Self { markers: markers.into_iter().filter(|marker| !marker.is_empty()).collect(), held: String::new() }
    }

    /// Takes a character. `text` is scratch space, overwritten.
    pub fn push<'a>(&mut self, c: char, text: &'a mut String) -> Found<'a> {
        text.clear();
        self.held.push(c);
        // The held text begins a marker or is let go, one character at a time: it is never longer than a marker.
        while let Some(first) = self.held.chars().next() {
            if let Some(marker) = self.markers.iter().find(|marker| **marker == self.held) {
                self.held.clear();
                return Found::Marker(text, marker);
            }
            if self.markers.iter().any(|marker| marker.starts_with(self.held.as_str())) {
                break;
            }
            text.push(first);
            self.held.drain(..first.len_utf8());
        }
        if text.is_empty() { Found::Nothing } else { Found::Text(text) }
    }

    /// Gives what was held back, which is text now.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}
