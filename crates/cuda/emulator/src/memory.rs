//! Device memory of the emulator: each allocation between two pages that fault, with its end at the second of them.

use std::collections::BTreeMap;
use std::ops::Range;

use darts_cuda::{Error, Result};

use crate::native::Mapping;

/// What addresses are aligned to: enough for the widest access that a kernel makes, and no more, so that buffers end as
/// close to the guard page as they can.
const ALIGNMENT: usize = 16;

/// What memory is filled with: NaN in every floating-point format.
pub(crate) const POISON: u8 = 0xff;

/// The allocations of one device, by address.
#[derive(Default)]
pub(crate) struct Allocations {
    by_address: BTreeMap<u64, Allocation>,
}

struct Allocation {
    mapping: Mapping,
    /// Where in the mapping its bytes lie; all others are poison.
    bytes: Range<usize>,
}

impl Allocations {
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<u64> {
        let room = bytes.next_multiple_of(ALIGNMENT);
        let mapping = Mapping::new(room).ok_or(Error::OutOfMemory { needed: bytes, free: 0, total: 0 })?;
        let start = mapping.bytes().len() - room;
        let address = mapping.address() + start as u64;
        self.by_address.insert(address, Allocation { mapping, bytes: start..start + bytes });
        Ok(address)
    }

    /// The bytes of one allocation, or a part of them.
    pub(crate) fn bytes(&self, address: u64, bytes: usize) -> Result<&[u8]> {
        let missing = Error::NotAllocated { address, bytes };
        let Some((start, allocation)) = self.by_address.range(..=address).next_back() else { return Err(missing) };
        let offset = (address - start) as usize;
        allocation.mapping.bytes()[allocation.bytes.clone()].get(offset..offset + bytes).ok_or(missing)
    }

    pub(crate) fn bytes_mut(&mut self, address: u64, bytes: usize) -> Result<&mut [u8]> {
        let missing = Error::NotAllocated { address, bytes };
        let Some((start, allocation)) = self.by_address.range_mut(..=address).next_back() else { return Err(missing) };
        let offset = (address - start) as usize;
        allocation.mapping.bytes_mut()[allocation.bytes.clone()].get_mut(offset..offset + bytes).ok_or(missing)
    }

    /// What was touched at an address that faulted.
    pub(crate) fn describe(&self, address: u64, wrote: bool) -> String {
        let did = if wrote { "wrote" } else { "read" };
        let below = self.by_address.range(..=address).next_back();
        let above = self.by_address.range(address..).next();
        if let Some((start, allocation)) = below {
            let (len, end) = (allocation.bytes.len(), start + allocation.bytes.len() as u64);
            if address < end + Mapping::guard() {
                return format!("it {did} {} bytes past the end of a buffer of {len} bytes", address - end);
            }
        }
        if let Some((start, allocation)) = above
            && address + allocation.bytes.start as u64 + Mapping::guard() >= *start
        {
            let len = allocation.bytes.len();
            return format!("it {did} {} bytes before the start of a buffer of {len} bytes", start - address);
        }
        format!("it {did} at address {address:#x}, where there is no buffer")
    }

    /// Says which buffer's surroundings were written to, if any were.
    pub(crate) fn overwritten(&self) -> Option<String> {
        self.by_address.values().find_map(|allocation| {
            let (all, bytes) = (allocation.mapping.bytes(), &allocation.bytes);
            let whole = |range: &[u8]| range.iter().all(|&byte| byte == POISON);
            let side = match (whole(&all[..bytes.start]), whole(&all[bytes.end..])) {
                (true, true) => return None,
                (false, _) => "before the start",
                (true, false) => "past the end",
            };
            Some(format!("it wrote {side} of a buffer of {} bytes", bytes.len()))
        })
    }
}
