//! How large a program is when its debug sections are not compressed, as those of a base may be and those of a
//! slot are not.

use std::fs;
use std::path::Path;

/// A section that begins with what it was before it was compressed (`SHF_COMPRESSED`).
const COMPRESSED: u64 = 0x800;

/// The size of a program with its sections unpacked; `None` if it is no 64-bit ELF file of this byte order.
pub(super) fn unpacked(program: &Path) -> Option<u64> {
    added(&fs::read(program).ok()?)
}

fn added(file: &[u8]) -> Option<u64> {
    let (magic, class, order) = (file.get(..4)?, *file.get(4)?, *file.get(5)?);
    let native = if cfg!(target_endian = "little") { 1 } else { 2 };
    if magic != b"\x7fELF" || class != 2 || order != native {
        return None;
    }
    let mut size = u64::try_from(file.len()).ok()?;
    let (first, each, count) = (number(file, 0x28)?, short(file, 0x3a)?, short(file, 0x3c)?);
    for index in 0..count {
        let section = first.checked_add(index.checked_mul(each)?)?;
        let field = |offset: u64| number(file, section.checked_add(offset)?);
        if field(8)? & COMPRESSED != 0 {
            let (at, packed) = (field(0x18)?, field(0x20)?);
            let before = number(file, at.checked_add(8)?)?;
            size = size.checked_add(before)?.checked_sub(packed)?;
        }
    }
    Some(size)
}

fn number(file: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    Some(u64::from_ne_bytes(file.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn short(file: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u16::from_ne_bytes(file.get(at..at + 2)?.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with two sections, one of which was compressed from 5000 bytes to 100.
    fn program() -> Vec<u8> {
        let mut file = vec![0; 0x40 + 2 * 0x40 + 100];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        let native = if cfg!(target_endian = "little") { 1 } else { 2 };
        put(0, &[0x7f, b'E', b'L', b'F', 2, native]);
        put(0x28, &0x40_u64.to_ne_bytes());
        put(0x3a, &0x40_u16.to_ne_bytes());
        put(0x3c, &2_u16.to_ne_bytes());
        put(0x80 + 8, &(COMPRESSED | 1).to_ne_bytes());
        put(0x80 + 0x18, &0xc0_u64.to_ne_bytes());
        put(0x80 + 0x20, &100_u64.to_ne_bytes());
        put(0xc0 + 8, &5000_u64.to_ne_bytes());
        file
    }

    #[test]
    fn compressed_sections_count_as_what_they_were() {
        let file = program();
        assert_eq!(added(&file), Some(file.len() as u64 - 100 + 5000));
    }

    #[test]
    fn what_is_no_program_is_not_understood() {
        for length in [0, 3, 0x20, 0x90, 0xc4] {
            assert_eq!(added(&program()[..length]), None, "{length}");
        }
        assert_eq!(added(b"#!/bin/sh\n"), None);
        let mut wild = program();
        wild[0x28..0x30].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert_eq!(added(&wild), None);
    }
}
