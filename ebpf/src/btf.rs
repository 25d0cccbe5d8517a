//! Where fields lie in the kernel's structures, read from the type information that the kernel carries (BTF).
//!
//! The format is the kernel's `Documentation/bpf/btf.rst`: a header, then types without an index, each of a length that its kind gives, then strings.
//! Only what answers "at which byte does `structure` have `field`" is read; every length is checked, so that a damaged file gives an error.

use std::path::Path;

use crate::Absent;

/// Where the kernel shows its own type information.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// `BTF_MAGIC`, as a machine of the same byte order reads it.
const MAGIC: u16 = 0xeb9f;

/// Anonymous structures and unions inside each other that are searched; the kernel's deepest has three.
const NESTING_MAX: u32 = 16;

/// Type information of one kernel, indexed by type id.
pub(crate) struct Btf {
    bytes: Vec<u8>,
    /// Where each type's entry begins; type 0 is `void` and has none, so type `id` is at `id - 1`.
    types: Vec<usize>,
    strings: usize,
}

/// The part of a type's entry that all kinds have, and where the rest begins.
struct Type {
    name: usize,
    kind: u32,
    members: usize,
    /// Whether members' offsets carry a bit-field size in their upper byte.
    bit_fields: bool,
    rest: usize,
}

const HEADER_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

impl Btf {
    /// Reads the running kernel's.
    pub(crate) fn of_kernel() -> Result<Self, Absent> {
        let path = Path::new(KERNEL_BTF);
        let absent = |reason: String| Absent::Btf { path: path.into(), reason };
        let bytes = std::fs::read(path).map_err(|error| absent(error.to_string()))?;
        Self::parse(bytes).ok_or_else(|| absent("it is not the format this program knows".into()))
    }

    /// Finds the types' entries; `None` when the bytes are not of this format, are cut short, or have a kind of type that is not known.
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        if u16::from_ne_bytes(*bytes.first_chunk()?) != MAGIC {
            return None;
        }
        let header = word(&bytes, 4)? as usize;
        let section = |at: usize| header.checked_add(word(&bytes, at)? as usize);
        let (begin, strings) = (section(8)?, section(16)?);
        let end = begin.checked_add(word(&bytes, 12)? as usize)?;
        let mut btf = Self { bytes, types: Vec::new(), strings };
        let mut at = begin;
        while at < end {
            // Every entry has at least its header, so this ends.
            btf.types.push(at);
            at = btf.end_of(at)?;
        }
        (at == end && end <= btf.bytes.len()).then_some(btf)
    }

    /// Byte offset of `structure.field`, looked for in anonymous structures and unions inside it too (a kernel that shuffles its structures' fields wraps
    /// them so). Bit fields have none.
    pub(crate) fn offset_bytes(&self, structure: &'static str, field: &'static str) -> Result<u32, Absent> {
        (1..=self.types.len())
            .filter_map(|id| self.entry(id as u32))
            .filter(|entry| entry.kind == KIND_STRUCT && self.string(entry.name) == Some(structure.as_bytes()))
            .find_map(|entry| self.offset_bits(&entry, field.as_bytes(), NESTING_MAX))
            .filter(|bits| bits.is_multiple_of(8))
            .map(|bits| bits / 8)
            .ok_or(Absent::Field { structure, field })
    }

    fn offset_bits(&self, structure: &Type, field: &[u8], nesting: u32) -> Option<u32> {
        (0..structure.members).find_map(|index| {
            let at = structure.rest + index * MEMBER_BYTES;
            let (name, id, offset) = (self.word(at)? as usize, self.word(at + 4)?, self.word(at + 8)?);
            let (bits, bit_field_bits) = if structure.bit_fields { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            match self.string(name)? {
                b"" if nesting > 0 => {
                    let inner = self.entry(id).filter(|inner| matches!(inner.kind, KIND_STRUCT | KIND_UNION))?;
                    bits.checked_add(self.offset_bits(&inner, field, nesting - 1)?)
                }
                name => (name == field && bit_field_bits == 0).then_some(bits),
            }
        })
    }

    fn entry(&self, id: u32) -> Option<Type> {
        self.read(*self.types.get((id as usize).checked_sub(1)?)?)
    }

    fn read(&self, at: usize) -> Option<Type> {
        let info = self.word(at + 4)?;
        Some(Type {
            name: self.word(at)? as usize,
            kind: (info >> 24) & 0x1f,
            members: (info & 0xffff) as usize,
            bit_fields: info >> 31 == 1,
            rest: at + HEADER_BYTES,
        })
    }

    /// Where the entry that begins at `at` ends.
    fn end_of(&self, at: usize) -> Option<usize> {
        let entry = self.read(at)?;
        let rest_bytes = match entry.kind {
            1 | 14 | 17 => 4,                                         // INT, VAR, DECL_TAG
            2 | 7..=12 | 16 | 18 => 0, // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
            3 => 12,                   // ARRAY
            KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * entry.members, // and DATASEC, ENUM64
            6 | 13 => 8 * entry.members, // ENUM, FUNC_PROTO
            _ => return None,
        };
        entry.rest.checked_add(rest_bytes)
    }

    fn word(&self, at: usize) -> Option<u32> {
        word(&self.bytes, at)
    }

    /// The string at an offset of the string section, without its end mark.
    fn string(&self, offset: usize) -> Option<&[u8]> {
        let from = self.bytes.get(self.strings.checked_add(offset)?..)?;
        from.split(|byte| *byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct task { int pid; union { struct { long a; int flags; }; char b; }; unsigned deep:3; }` behind a typedef and a function, by hand from the
    /// format's description: offsets 0, 8 and 16 are what a compiler gives on a 64-bit machine.
    fn sample() -> Vec<u8> {
        let names = b"\0task\0pid\0a\0flags\0b\0deep\0int\0";
        let (task, pid, a, flags, b, deep, int) = (1, 6, 10, 12, 18, 20, 25);
        let (of_int, of_struct, of_union) = (1 << 24, 4 << 24, 5 << 24);
        let types: &[u32] = &[
            int,
            of_int,
            4,
            32, // 1: int
            0,
            of_struct | 2,
            16,
            a,
            1,
            0,
            flags,
            1,
            64, // 2: the inner struct, a at bit 0 and flags at bit 64
            0,
            of_union | 2,
            16,
            0,
            2,
            0,
            b,
            1,
            0, // 3: the union
            0,
            13 << 24 | 1,
            1,
            0,
            1, // 4: a function's type with one argument
            int,
            8 << 24,
            1, // 5: a typedef
            task,
            1 << 31 | of_struct | 3,
            32,
            pid,
            1,
            0,
            0,
            3,
            64,
            deep,
            1,
            3 << 24 | 192, // 6: task
        ];
        let types_bytes = types.len() as u32 * 4;
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]); // version, flags
        for word in [24, 0, types_bytes, types_bytes, names.len() as u32] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        types.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend(names);
        bytes
    }

    fn check(structure: &'static str, field: &'static str, expected: Option<u32>) {
        let btf = Btf::parse(sample()).expect("the sample is whole");
        assert_eq!(btf.offset_bytes(structure, field).ok(), expected, "{structure}.{field}");
    }

    #[test]
    fn finds_fields_through_anonymous_parts() {
        check("task", "pid", Some(0));
        check("task", "a", Some(8));
        check("task", "flags", Some(16));
        check("task", "b", Some(8));
    }

    #[test]
    fn names_what_it_does_not_find() {
        check("task", "deep", None); // A bit field has no byte.
        check("task", "nothing", None);
        check("int", "pid", None);
        let absent = Btf::parse(sample()).expect("whole").offset_bytes("task", "nothing").expect_err("no such field");
        assert_eq!(absent.to_string(), "this kernel has no field `nothing` in `struct task`");
    }

    #[test]
    fn a_damaged_file_is_refused_or_read_within_its_bounds() {
        let whole = sample();
        for length in 0..whole.len() {
            if let Some(btf) = Btf::parse(whole[..length].to_vec()) {
                let _ = btf.offset_bytes("task", "flags"); // Strings may be cut; reading them must stay inside.
            }
        }
        for at in 0..whole.len() {
            for value in [0x00, 0x13, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Some(btf) = Btf::parse(bytes) {
                    let _ = btf.offset_bytes("task", "flags");
                }
            }
        }
        let mut unknown_kind = whole.clone();
        unknown_kind[24 + 7] = 31;
        assert!(Btf::parse(unknown_kind).is_none());
        assert!(Btf::parse(b"\x7fELF".to_vec()).is_none());
    }
}
