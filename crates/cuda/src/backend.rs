//! What runs programs: a CUDA device, or the emulator that tests the device code. Two traits: [`Backend`], which a
//! device implements in bytes, and [`Memory`], which makes typed [`View`]s of it.

use std::any::Any;

use crate::error::{Error, Result};
use crate::pod::{self, Pod};
use crate::program::Program;
use crate::view::View;

/// A device: memory, copies, programs. Everything is done in the order in which it is asked for, but for copies ahead of their turn.
pub trait Backend {
    /// Address of `bytes` fresh bytes, aligned to 256. Their contents are unspecified. They live as long as the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn allocate_bytes(&self, bytes: usize) -> Result<u64>;

    /// Copies `from` to the device.
    ///
    /// # Errors
    /// Where the bytes are not allocated, or the device fails.
    fn upload_bytes(&self, to: u64, from: &[u8]) -> Result<()>;

    /// Copies `from` to the device ahead of its turn: beside what was asked for before, which must be done with what lies at `to`.
    /// Whatever is asked for later finds the bytes there.
    ///
    /// # Errors
    /// Where the bytes are not allocated, or the device fails.
    fn upload_bytes_ahead(&self, to: u64, from: &[u8]) -> Result<()> {
        self.upload_bytes(to, from)
    }

    /// Whether all programs and copies in their turn that were asked for are done.
    ///
    /// # Errors
    /// Where something of that failed.
    fn is_idle(&self) -> Result<bool> {
        Ok(true)
    }

    /// Copies from the device, after everything that was asked for before is done.
    ///
    /// # Errors
    /// Where the bytes are not allocated, or the device fails, now or in what was asked for before.
    fn download_bytes(&self, from: u64, to: &mut [u8]) -> Result<()>;

    /// Runs a program's launches in order. May return before they are done.
    ///
    /// # Errors
    /// Where a launch does not fit its kernel, or the device fails.
    fn run(&self, program: &Program) -> Result<()>;

    /// Makes a program ready to be run many times by [`Backend::replay`], on a device that can as one graph of launches.
    ///
    /// # Errors
    /// Where a launch does not fit its kernel, or the device fails.
    fn record(&self, program: &Program) -> Result<Recording> {
        Ok(Recording { program: program.clone(), graph: None })
    }

    /// Runs a recorded program; the result is that of [`Backend::run`], bit for bit.
    ///
    /// # Errors
    /// As [`Backend::run`].
    fn replay(&self, recording: &Recording) -> Result<()> {
        self.run(&recording.program)
    }

    /// Waits until everything that was asked for is done.
    ///
    /// # Errors
    /// Where something of that failed.
    fn synchronize(&self) -> Result<()>;
}

/// A program that a device has made ready to be run many times ([`Backend::record`]).
pub struct Recording {
    pub(crate) program: Program,
    /// What the device made of it, where it made something.
    pub(crate) graph: Option<Box<dyn Any + Send>>,
}

impl Recording {
    /// The launches.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Whether they are one graph, rather than launched one by one.
    pub fn is_graph(&self) -> bool {
        self.graph.is_some()
    }
}

/// Typed memory of any [`Backend`].
pub trait Memory: Backend {
    /// Room for `len` elements; contents unspecified. No elements: [`View::none`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn allocate<T: Pod>(&self, len: usize) -> Result<View<T>> {
        if len == 0 {
            return Ok(View::none());
        }
        Ok(View::at(self.allocate_bytes(len * size_of::<T>())?, len))
    }

    /// A view of as many elements as `values` has, with their values.
    ///
    /// # Errors
    /// As [`Memory::allocate`] and [`Memory::upload`].
    fn uploaded<T: Pod>(&self, values: &[T]) -> Result<View<T>> {
        let view = self.allocate(values.len())?;
        self.upload(view, values)?;
        Ok(view)
    }

    /// Copies `from` to a view of the same length.
    ///
    /// # Errors
    /// [`Error::CopyLength`] where lengths differ, and those of the device.
    fn upload<T: Pod>(&self, to: View<T>, from: &[T]) -> Result<()> {
        same_length(to, from)?;
        if from.is_empty() { Ok(()) } else { self.upload_bytes(to.address, pod::bytes(from)) }
    }

    /// [`Memory::upload`], ahead of its turn ([`Backend::upload_bytes_ahead`]).
    ///
    /// # Errors
    /// As [`Memory::upload`].
    fn upload_ahead<T: Pod>(&self, to: View<T>, from: &[T]) -> Result<()> {
        same_length(to, from)?;
        if from.is_empty() { Ok(()) } else { self.upload_bytes_ahead(to.address, pod::bytes(from)) }
    }

    /// Copies a view to a slice of the same length.
    ///
    /// # Errors
    /// [`Error::CopyLength`] where lengths differ, and those of the device.
    fn download<T: Pod>(&self, from: View<T>, to: &mut [T]) -> Result<()> {
        same_length(from, to)?;
        if to.is_empty() { Ok(()) } else { self.download_bytes(from.address, pod::bytes_mut(to)) }
    }

    /// The elements of a view.
    ///
    /// # Errors
    /// As [`Memory::download`].
    fn downloaded<T: Pod + Default>(&self, from: View<T>) -> Result<Vec<T>> {
        let mut values = vec![T::default(); from.len];
        self.download(from, &mut values)?;
        Ok(values)
    }
}

impl<B: Backend + ?Sized> Memory for B {}

fn same_length<T>(view: View<T>, slice: &[T]) -> Result<()> {
    if view.len == slice.len() {
        Ok(())
    } else {
        Err(Error::CopyLength { host: size_of_val(slice), device: view.bytes() })
    }
}
