//! Metrics as plain data: what a collector found, before anything knows of Prometheus.

use std::borrow::Cow;

/// Longest label value; longer ones are cut and end in "…".
pub const LABEL_BYTES_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// All samples of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

impl Family {
    pub fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, help, kind, samples: Vec::new() }
    }

    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Counter, help)
    }

    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, help)
    }

    /// Adds a sample with labels.
    pub fn with<const N: usize>(mut self, labels: [(&'static str, &str); N], value: f64) -> Self {
        self.push(labels, value);
        self
    }

    pub fn push<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: f64) {
        self.push_all(labels, value);
    }

    /// As [`Family::push`], for labels that are put together.
    pub fn push_all<'l>(&mut self, labels: impl IntoIterator<Item = (&'static str, &'l str)>, value: f64) {
        let labels = labels.into_iter().map(|(name, value)| (name, bounded(value).into_owned())).collect();
        self.samples.push(Sample { labels, value });
    }
}

/// Cuts a label value to [`LABEL_BYTES_MAX`] and takes NUL out, which some parsers refuse.
pub fn bounded(value: &str) -> Cow<'_, str> {
    if value.len() <= LABEL_BYTES_MAX && !value.contains('\0') {
        return Cow::Borrowed(value);
    }
    let mut cut = String::with_capacity(LABEL_BYTES_MAX);
    for c in value.chars().map(|c| if c == '\0' { '\u{fffd}' } else { c }) {
        if cut.len() + c.len_utf8() + '…'.len_utf8() > LABEL_BYTES_MAX {
            cut.push('…');
            break;
        }
        cut.push(c);
    }
    Cow::Owned(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_value_is_bounded_at_a_character() {
        assert_eq!(bounded("short"), "short");
        assert_eq!(bounded("a\0b"), "a\u{fffd}b");
        let long = bounded(&"é".repeat(5000)).into_owned();
        assert!(long.len() <= LABEL_BYTES_MAX && long.ends_with('…') && long.starts_with('é'), "{long}");
    }
}
