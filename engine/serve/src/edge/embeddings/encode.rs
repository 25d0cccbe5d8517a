//! Vectors as base64 (RFC 4648 §4) of their f32 bytes.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Float,
    Base64(ByteOrder),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    Little,
    Big,
}

pub fn base64(vector: &[f32], order: ByteOrder) -> String {
    let bytes = vector.iter().flat_map(|value| match order {
        ByteOrder::Little => value.to_le_bytes(),
        ByteOrder::Big => value.to_be_bytes(),
    });
    let bytes: Vec<u8> = bytes.collect();
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            // Two letters hold one byte, three two.
            let letter = if place <= three.len() { ALPHABET[(bits >> (18 - 6 * place) & 63) as usize] } else { b'=' };
            out.push(letter.into());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python: `base64.b64encode(struct.pack("<2f", 1.5, -2.25))` and its like.
    #[test]
    fn as_python_writes_them() {
        assert_eq!(base64(&[], ByteOrder::Little), "");
        assert_eq!(base64(&[1.5], ByteOrder::Little), "AADAPw==");
        assert_eq!(base64(&[1.5, -2.25], ByteOrder::Little), "AADAPwAAEMA=");
        assert_eq!(base64(&[1.5, -2.25, 0.1], ByteOrder::Little), "AADAPwAAEMDNzMw9");
        assert_eq!(base64(&[1.5, -2.25], ByteOrder::Big), "P8AAAMAQAAA=");
    }
}
