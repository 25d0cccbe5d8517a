//! User side of the probes: what this kernel can do, attach, drain, yield samples.
