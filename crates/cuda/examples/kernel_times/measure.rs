//! Times of programs on a device, with what is read in the cache of the device and without.

use darts_cuda::driver::Device;
use darts_cuda::{Backend, Memory, Precision, Program, Result, View, vector};

/// Timings of which the median is taken.
pub(crate) const TIMINGS: usize = 21;
/// Floats of what is read to drive everything else out of the cache: 128 MiB, more than twice the largest L2.
const FLUSH: usize = 32 << 20;
/// Programs in a graph that is timed.
const COPIES: usize = 10;

/// What is measured how often.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Every program runs once: to see that it does, or for a tool that watches it.
    pub(crate) once: bool,
    /// Images, or sequences, of a batch instead of the paper's.
    pub(crate) batch: Option<usize>,
    /// Of the products of separable units.
    pub(crate) precision: Precision,
}

/// A device, and what it is measured against.
pub(crate) struct Bench<'a> {
    pub(crate) device: &'a Device,
    /// Bytes per second that a copy reads and writes.
    pub(crate) bandwidth: f64,
    /// Fused multiply-adds per second that an f32 kernel may hope for.
    pub(crate) arithmetic: f64,
    /// Seconds that a launch with nothing to do takes in a graph.
    pub(crate) empty_launch: f64,
    /// What is asked for beside the defaults.
    settings: Settings,
    flush: Program,
    numbers: View,
}

/// Multiprocessors × 128 lanes × clock of an H100 or H200 (132 × 128 × 1.755 GHz, which it holds under load).
const ARITHMETIC: f64 = 132.0 * 128.0 * 1.755e9;

impl<'a> Bench<'a> {
    pub(crate) fn new(device: &'a Device, settings: Settings) -> Result<Self> {
        let floats = if settings.once { 1 << 16 } else { FLUSH };
        let (large, numbers) = (device.allocate(2 * floats)?, device.allocate(1 << 20)?);
        let mut flush = Program::default();
        let partials = device.allocate(vector::scratch_len(floats))?;
        let from = large.slice(0..floats);
        vector::norm2(&mut flush, device.allocate(1)?, from, partials);
        device.upload(numbers, &arbitrary(numbers.len))?;
        let mut bench =
            Self { device, bandwidth: 0.0, arithmetic: ARITHMETIC, empty_launch: 0.0, settings, flush, numbers };
        let mut copy = Program::default();
        vector::copy(&mut copy, large.slice(floats..2 * floats), from);
        bench.bandwidth = 2.0 * from.bytes() as f64 / bench.warm(&copy, TIMINGS)?;
        let mut nothing = Program::default();
        vector::fill(&mut nothing, numbers.slice(0..1), 0.5);
        bench.empty_launch = bench.warm(&nothing, TIMINGS)?;
        Ok(bench)
    }

    /// The paper's batch, or the one that was asked for.
    pub(crate) fn batch(&self, paper: usize) -> usize {
        self.settings.batch.unwrap_or(paper)
    }

    /// The precision that was asked for.
    pub(crate) fn precision(&self) -> Precision {
        self.settings.precision
    }

    /// Fresh memory with numbers in (−1, 1).
    pub(crate) fn filled(&self, len: usize) -> Result<View> {
        let view: View = self.device.allocate(len)?;
        let mut program = Program::default();
        for start in (0..len).step_by(self.numbers.len) {
            let piece = self.numbers.len.min(len - start);
            vector::copy(&mut program, view.slice(start..start + piece), self.numbers.slice(0..piece));
        }
        self.device.run(&program)?;
        Ok(view)
    }

    /// Seconds of the program after itself: what fits the cache is in it. The median of some.
    pub(crate) fn warm(&self, program: &Program, timings: usize) -> Result<f64> {
        let copies = if self.settings.once { 1 } else { COPIES };
        let mut repeated = Program::default();
        (0..copies).for_each(|_| repeated.append(program.clone()));
        Ok(self.graph(&repeated, timings)? / copies as f64)
    }

    /// Seconds of the program with nothing of its in the cache, as the difference of two graphs.
    pub(crate) fn cold(&self, program: &Program) -> Result<f64> {
        if self.settings.once {
            return self.graph(program, 1);
        }
        let (mut with, mut without) = (Program::default(), Program::default());
        for _ in 0..COPIES {
            with.append(self.flush.clone());
            with.append(program.clone());
            without.append(self.flush.clone());
        }
        Ok((self.graph(&with, TIMINGS)? - self.graph(&without, TIMINGS)?) / COPIES as f64)
    }

    /// Seconds of the program as one graph, the median of some.
    pub(crate) fn graph(&self, program: &Program, timings: usize) -> Result<f64> {
        let recording = self.device.record(program)?;
        self.median(timings, || self.device.replay(&recording))
    }

    /// Seconds of the program launched one by one.
    pub(crate) fn launched(&self, program: &Program, timings: usize) -> Result<f64> {
        self.median(timings, || self.device.run(program))
    }

    fn median(&self, timings: usize, work: impl Fn() -> Result<()>) -> Result<f64> {
        let (timings, before) = if self.settings.once { (1, 0) } else { (timings, 3) };
        for _ in 0..before {
            work()?;
        }
        let mut seconds: Vec<f64> =
            (0..timings).map(|_| Ok(self.device.time(&work)?.as_secs_f64())).collect::<Result<_>>()?;
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[timings / 2])
    }
}

/// Numbers in (−1, 1) that look like none in particular.
pub(crate) fn arbitrary(len: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 + 0.5) / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
