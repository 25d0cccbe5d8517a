//! What machine code is made for: a device's compute capability, written as NVIDIA's tools write it.

use std::fmt;
use std::str::FromStr;

/// A GPU architecture such as `sm_90` or `sm_90a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arch {
    /// First part of the compute capability: 9 on Hopper.
    pub major: u32,
    /// Second part, one digit.
    pub minor: u32,
    /// With the instructions that only this very architecture has (the `a` of `sm_90a`). Such code runs on no later one.
    pub specific: bool,
}

impl Arch {
    /// Code for devices of this compute capability, and of later minor ones.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, specific: false }
    }

    /// As one number, in the way the compiler lists what it supports: 90, 120.
    pub const fn number(self) -> u32 {
        self.major * 10 + self.minor
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.number(), if self.specific { "a" } else { "" })
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no architecture; write one such as sm_80 or sm_90a");
        let digits = text.strip_prefix("sm_").ok_or_else(wrong)?;
        let (digits, specific) = digits.strip_suffix('a').map_or((digits, false), |digits| (digits, true));
        if !(2..=4).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u32 = digits.parse().map_err(|_| wrong())?;
        Ok(Self { major: number / 10, minor: number % 10, specific })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Arch>) {
        assert_eq!(text.parse::<Arch>().ok(), expected, "{text}");
        if let Some(arch) = expected {
            assert_eq!(arch.to_string(), text);
        }
    }

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        check("sm_80", Some(Arch::new(8, 0)));
        check("sm_90a", Some(Arch { specific: true, ..Arch::new(9, 0) }));
        check("sm_121", Some(Arch::new(12, 1)));
        for wrong in ["", "90", "sm_", "sm_9", "sm_90b", "sm_a", "compute_90", "sm_-90", "sm_90 --x", "sm_99999"] {
            check(wrong, None);
        }
    }
}
