//! What a person writes for a model on the Hub.

use std::fmt;

/// `org/name`, with a revision (`main` without one) or the name of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    name: String,
    revision: Option<String>,
    file: Option<String>,
}

impl Id {
    /// `None` where it can only be a path: no slash or several before the colon, a part that begins with a dot or `~`, odd characters.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, behind) = text.split_once(':').map_or((text, None), |(name, behind)| (name, Some(behind)));
        let (org, model) = name.split_once('/')?;
        let fits = |part: &str| {
            let first = part.chars().next();
            let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            first.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') && plain && part.len() <= 96
        };
        if !fits(org) || !fits(model) || (behind.is_none() && model.ends_with(".gguf")) {
            return None;
        }
        let behind = match behind {
            // A path upwards would leave the cache.
            Some(behind) if behind.is_empty() || behind.split('/').any(|part| part.is_empty() || part.starts_with('.')) => {
                return None;
            }
            behind => behind.map(str::to_owned),
        };
        let (file, revision) = match behind {
            Some(behind) if behind.ends_with(".gguf") => (Some(behind), None),
            behind => (None, behind),
        };
        Some(Self { name: name.to_owned(), revision, file })
    }

    /// `org/name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The GGUF file that was asked for.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.revision.as_ref().or(self.file.as_ref()) {
            Some(behind) => write!(f, ":{behind}"),
            None => Ok(()),
        }
    }
}
