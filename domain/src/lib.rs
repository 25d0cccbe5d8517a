//! The nouns both sides share: ids, units, token-block key, node, load, request, fault.
#![forbid(unsafe_code)]
