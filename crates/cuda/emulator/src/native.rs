//! The C++ side: its table of kernels, its launches, its guarded memory.

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

use darts_cuda::Launch;

use crate::Order;

/// A kernel as the device code has it.
#[derive(Debug, Copy, Clone)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Bytes of its argument.
    pub args_bytes: u32,
    /// Threads of a block.
    pub threads: u32,
    raw: &'static RawEntry,
}

/// `emulator::Entry`.
#[repr(C)]
#[derive(Debug)]
struct RawEntry {
    name: *const c_char,
    args_bytes: u32,
    threads: u32,
    run: extern "C" fn(*const u8),
    next: *const RawEntry,
}

// SAFETY: entries are made by static constructors before `main`, and never change.
unsafe impl Sync for RawEntry {}

/// `emulator::Report`.
#[repr(C)]
struct Report {
    block: [u32; 3],
    thread: u32,
    address: u64,
    wrote: u32,
    message: [c_char; 496],
}

unsafe extern "C" {
    safe fn darts_emulator_entries() -> *const RawEntry;
    safe fn darts_emulator_page() -> usize;
    fn darts_emulator_map(bytes: usize, mapped: *mut usize) -> *mut u8;
    fn darts_emulator_unmap(start: *mut u8, mapped: usize);
    fn darts_emulator_launch(
        entry: *const RawEntry,
        args: *const u8,
        grid: *const u32,
        shared_bytes: u32,
        order: u32,
        seed: u64,
        report: *mut Report,
    ) -> bool;
}

/// All kernels of the device code, and those of this crate's tests (`planted_…`, `test_…`).
pub fn entries() -> &'static [Entry] {
    static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let mut found = Vec::new();
        let mut next = darts_emulator_entries();
        // SAFETY: a list of static entries, which ends in null; see `RawEntry`.
        while let Some(raw) = unsafe { next.as_ref::<'static>() } {
            // SAFETY: names are string literals.
            let name = unsafe { CStr::from_ptr::<'static>(raw.name) }.to_str().expect("names are ASCII");
            found.push(Entry { name, args_bytes: raw.args_bytes, threads: raw.threads, raw });
            next = raw.next;
        }
        found.sort_by_key(|entry| entry.name);
        found
    })
}

pub(crate) fn find(name: &str) -> Option<Entry> {
    let entries = entries();
    entries.binary_search_by_key(&name, |entry| entry.name).ok().map(|i| entries[i])
}

/// How a launch went wrong.
pub(crate) struct Fault {
    pub(crate) block: [u32; 3],
    pub(crate) thread: u32,
    /// The address that was touched, where it was that.
    pub(crate) address: Option<u64>,
    pub(crate) wrote: bool,
    pub(crate) message: String,
}

/// Runs a launch that fits its kernel.
pub(crate) fn launch(entry: &Entry, launch: &Launch, order: Order) -> Result<(), Fault> {
    let (order, seed) = match order {
        Order::Forward => (0, 0),
        Order::Reverse => (1, 0),
        Order::Random(seed) => (2, seed),
    };
    // Arguments are read as the struct that they are: 16 bytes are as aligned as any of them is.
    let mut args = vec![0u128; launch.args.len().div_ceil(16)];
    let mut report = Report { block: [0; 3], thread: 0, address: 0, wrote: 0, message: [0; 496] };
    // SAFETY: `args` has room for its bytes; the entry is of the table and takes as many (the caller has checked). What
    // the kernel touches beyond its buffers is caught by guard pages, or is the fault that a test is there to find.
    let well = unsafe {
        std::ptr::copy_nonoverlapping(launch.args.as_ptr(), args.as_mut_ptr().cast(), launch.args.len());
        let (args, grid) = (args.as_ptr().cast(), launch.grid.as_ptr());
        darts_emulator_launch(entry.raw, args, grid, launch.shared_bytes, order, seed, &mut report)
    };
    if well {
        return Ok(());
    }
    // SAFETY: the message is zero-terminated: snprintf cuts it at the array's end.
    let message = unsafe { CStr::from_ptr(report.message.as_ptr()) }.to_string_lossy().into_owned();
    let address = (report.address != 0 || message.is_empty()).then_some(report.address);
    Err(Fault { block: report.block, thread: report.thread, address, wrote: report.wrote != 0, message })
}

/// Poisoned memory between two pages that fault.
pub(crate) struct Mapping {
    start: *mut u8,
    mapped: usize,
}

impl Mapping {
    /// At least `bytes`; none where there is no memory.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        let mut mapped = 0;
        // SAFETY: `mapped` is written once.
        let start = unsafe { darts_emulator_map(bytes, &mut mapped) };
        (!start.is_null()).then_some(Self { start, mapped })
    }

    pub(crate) fn address(&self) -> u64 {
        self.start as u64
    }

    /// All bytes between the two pages.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and initialized for as long as `self` lives; kernels write them only while a launch runs, which
        // borrows the allocations.
        unsafe { std::slice::from_raw_parts(self.start, self.mapped - 2 * darts_emulator_page()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.mapped - 2 * darts_emulator_page()) }
    }

    /// Bytes of the page on either side.
    pub(crate) fn guard() -> u64 {
        darts_emulator_page() as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, once.
        unsafe { darts_emulator_unmap(self.start, self.mapped) }
    }
}
