//! The kernel's line about an XID. Forms (driver 470 … 580, from public reports):
//!
//! ```text
//! NVRM: Xid (PCI:0000:3f:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
//! NVRM: Xid (PCI:0018:01:00): 145, RLW_RXPIPE Nonfatal XC0 i0 Link 13 (0x0409a0c2 …)
//! NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)
//! NVRM: Xid (PCI:0000:dc:00): 45, pid=4711, name=python3, Ch 00000001 caused by previous Xid 149
//! NVRM: Xid (PCI:0000:07:00 GPU-I:05): 13, …
//! ```

use nvml::PciAddress;

/// Longest text that is kept of a line.
const TEXT_BYTES_MAX: usize = 200;
/// No XID has more digits.
const CODE_DIGITS_MAX: usize = 5;

/// What was seen of one XID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting<'l> {
    pub gpu: PciAddress,
    pub code: u32,
    /// MIG GPU instance.
    pub gpu_instance: Option<u32>,
    /// Whether the line calls itself fatal or non-fatal (144 to 150 do).
    pub fatal: Option<bool>,
    /// The XID that the line names as its cause.
    pub caused_by: Option<u32>,
    /// Of a 154, the recovery action that holds from now on; 0 is none.
    pub recovery: Option<u32>,
    /// What follows the number.
    pub text: &'l str,
}

/// What a line of the kernel log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'l> {
    /// Of something else.
    Other,
    /// About an XID, in a form that is not known.
    Unparsed,
    Xid(Sighting<'l>),
}

/// Reads a message of the kernel log.
pub fn parse(message: &str) -> Parsed<'_> {
    let message = message.trim_end();
    let rest = message.strip_prefix("NVRM: ").unwrap_or(message);
    let Some(rest) = rest.strip_prefix("Xid ") else { return Parsed::Other };
    match sighting(rest) {
        Some(sighting) => Parsed::Xid(sighting),
        None => Parsed::Unparsed,
    }
}

fn sighting(rest: &str) -> Option<Sighting<'_>> {
    let (place, rest) = rest.strip_prefix("(PCI:")?.split_once("):")?;
    let (address, instance) = match place.split_once(" GPU-I:") {
        Some((address, instance)) => (address, Some(instance.parse().ok()?)),
        None => (place, None),
    };
    let rest = rest.trim_start();
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > CODE_DIGITS_MAX {
        return None;
    }
    let (code, text) = rest.split_at(digits);
    if text.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let text = bounded(text.trim_start_matches(',').trim());
    let word = |wanted: &str| text.split([' ', ',']).any(|word| word == wanted);
    Some(Sighting {
        gpu: pci_address(address)?,
        code: code.parse().ok()?,
        gpu_instance: instance,
        fatal: if word("Nonfatal") { Some(false) } else { word("Fatal").then_some(true) },
        caused_by: text.split_once("caused by previous Xid ").and_then(|(_, cause)| leading_number(cause)),
        recovery: recovery(text),
        text,
    })
}

/// `domain:bus:device`, all hexadecimal; old drivers leave the domain out.
pub fn pci_address(text: &str) -> Option<PciAddress> {
    let hex = |part: &str, digits: usize| {
        let fits = (1..=digits).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        fits.then(|| u32::from_str_radix(part, 16).ok())?
    };
    let (front, device) = text.rsplit_once(':')?;
    let (domain, bus) = front.rsplit_once(':').unwrap_or(("0", front));
    let device = device.split_once('.').map_or(device, |(device, _)| device);
    Some(PciAddress {
        domain: hex(domain, 8)?,
        bus: u8::try_from(hex(bus, 2)?).ok()?,
        device: u8::try_from(hex(device, 2)?).ok()?,
    })
}

fn recovery(text: &str) -> Option<u32> {
    let (_, change) = text.split_once("recovery action changed from ")?;
    let (_, to) = change.split_once(" to 0x")?;
    let digits = to.bytes().take_while(u8::is_ascii_hexdigit).count();
    u32::from_str_radix(&to[..digits], 16).ok()
}

fn leading_number(text: &str) -> Option<u32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits > CODE_DIGITS_MAX { None } else { text[..digits].parse().ok() }
}

fn bounded(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
