//! How the units' images are cut into tiles: from shapes alone, so that sums have the same order on every device. Pushes
//! nothing.
//!
//! Every cut that fits shared memory and threads is rated by the instructions that a thread would issue, and the cheapest
//! is taken. The figures are estimates: a wrong one costs speed, never a result.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{UNITS, UnitShape};
use crate::args;
use crate::images::Images;
use crate::precision::Precision;
use crate::quads::{
    Filling, SHARED_FLOATS, THREADS, column_sums_len, end_of, magic, pieces, room, share_magic, shares_fit,
    shares_interleave, tile4_rounds,
};

args! {
    /// What units of one shape share.
    pub(super) struct Kind: 200 {
        kernel: u32,
        factor: u32,
        dilation: u32,
        step: u32,
        stride: u32,
        padding: u32,
        c_in: u32,
        c_out: u32,
        out_h: u32,
        out_w: u32,
        tile_n: u32,
        tile_h: u32,
        tile_w: u32,
        tiles_y: u32,
        tiles_x: u32,
        pub(super) tiles: u32,
        in_h: u32,
        in_w: u32,
        plane: u32,
        pub(super) pixels: u32,
        pub(super) pitch: u32,
        pub(super) chunk: u32,
        pub(super) chunks: u32,
        quads_magic: u32,
        quads_out_magic: u32,
        columns_magic: u32,
        chunk_magic: u32,
        patch_rows_magic: u32,
        tile_h_magic: u32,
        across_magic: u32,
        in_h_magic: u32,
        share_magic: u32,
        tiles_x_magic: u32,
        tiles_y_magic: u32,
        pub(super) split: u32,
        pub(super) splits: u32,
        pub(super) splits_magic: u32,
        pub(super) first_unit: u32,
        pub(super) units: u32,
        pub(super) per_block: u32,
        pub(super) first_block: u32,
        rows_at: u32,
        next_at: u32,
        more_at: u32,
        pointwise_at: u32,
        depthwise_at: u32,
        taps_at: u32,
        sums_at: u32,
        slots_at: u32,
        pub(super) weights_pitch: u32,
    }
}

/// Images, rows and columns of an output that a block computes at a time; columns are a multiple of 4.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
}

impl Tile {
    pub(super) const fn pixels(self) -> usize {
        self.n * self.h * self.w
    }

    /// Tiles of an image in rows and columns.
    pub(super) const fn across(self, out: Images) -> (usize, usize) {
        (out.h.div_ceil(self.h), out.w.div_ceil(self.w))
    }

    /// Tiles of all images.
    pub(super) const fn count(self, out: Images) -> usize {
        let (y, x) = self.across(out);
        out.n.div_ceil(self.n) * y * x
    }
}

/// Tiles to choose from: so many that device code can divide their numbers by how many there are across an image.
pub(super) fn tiles(out: Images) -> impl Iterator<Item = Tile> {
    let divided = move |tile: &Tile| {
        let (y, x) = tile.across(out);
        tile.count(out) * x.max(y) < 1 << 31
    };
    let whole = out.w.next_multiple_of(4);
    let widths = [64, 32, 16, 8, 4].into_iter().filter(move |&w| w < whole).chain((whole <= 64).then_some(whole));
    let all = widths.flat_map(move |w| {
        let heights = (1..=out.h.min(64)).filter(move |&h| h <= 16 || h.is_multiple_of(4) || h == out.h);
        heights.flat_map(move |h| {
            let all = w >= out.w && h == out.h;
            (1..=if all { out.n.clamp(1, 8) } else { 1 }).map(move |n| Tile { n, h, w })
        })
    });
    all.filter(divided)
}

/// A shape reduced by what stride and dilation have in common, and the input of a tile of it.
#[derive(Debug, Copy, Clone)]
pub(super) struct Window {
    kernel: usize,
    factor: usize,
    dilation: usize,
    step: usize,
}

impl Window {
    pub(super) fn new(kernel: usize, stride: usize, dilation: usize) -> Self {
        let gcd = (1..=stride).rev().find(|d| stride.is_multiple_of(*d) && dilation.is_multiple_of(*d)).unwrap_or(1);
        Self { kernel, factor: stride / gcd, dilation: dilation / gcd, step: gcd }
    }

    /// Rows of patches; a patch has four rows.
    pub(super) const fn patch_rows(self, rows: usize) -> usize {
        rows.div_ceil(self.dilation).div_ceil(4) * self.dilation
    }

    /// Patches of a tile in one channel.
    pub(super) const fn patches(self, tile: Tile) -> usize {
        tile.n * self.patch_rows(tile.h) * (tile.w / 4)
    }

    /// Vectors of a patch's window.
    const fn vectors(self) -> usize {
        (3 * self.factor + self.dilation * (self.kernel - 1) + 4) / 4
    }

    /// Rows and columns of a tile's input, and floats of a plane of them.
    pub(super) fn input(self, tile: Tile) -> (usize, usize, usize) {
        let rows = 4 * self.patch_rows(tile.h);
        let h = self.factor * (rows - 1) + self.dilation * (self.kernel - 1) + 1;
        let w = self.factor * (tile.w - 4) + 4 * self.vectors();
        (h, w, pitch(tile.n * h * w, tile.w))
    }

    /// Whether device code knows the shape as constants.
    pub(super) const fn is_constant(self) -> bool {
        matches!((self.kernel, self.factor, self.dilation), (3 | 5, 1, 1 | 2) | (3 | 5, 2, 1) | (7, 1 | 2, 1))
    }

    /// Whether the products of a patch fit so few registers that three blocks share a multiprocessor.
    pub(super) const fn is_small(self) -> bool {
        self.is_constant() && self.kernel <= 5
    }

    /// Instructions of one patch's convolution.
    pub(super) const fn patch_cost(self) -> usize {
        let products = 16 * self.kernel * self.kernel;
        // A window's vectors cost four issue slots each; a value at a time costs one per product.
        let loads = (3 * self.factor + self.kernel) * self.vectors() * 4;
        40 + if self.is_constant() { products + loads } else { 3 * products }
    }
}

impl UnitShape {
    fn window(self) -> Window {
        Window::new(self.kernel, self.stride, self.dilation)
    }
}

/// `floats`, and as many more as it takes for neighbouring planes to begin in other banks: threads read vectors of `width`
/// columns of one plane, then of the next.
pub(super) fn pitch(floats: usize, width: usize) -> usize {
    if width >= 32 {
        return floats;
    }
    // An odd multiple of `width` words leads through all banks.
    let period = if width.is_power_of_two() { 2 * width } else { 32 };
    floats + (width + period - floats % period) % period
}

/// Bytes of a tile of `images` that a block reads, `chunk` channels of it: memory moves in sectors of 32 bytes.
pub(super) fn tile_bytes(images: Images, tile: (usize, usize, usize), chunk: usize) -> usize {
    let (n, h, w) = tile;
    let bytes = if chunk < images.c { (4 * chunk).next_multiple_of(32) } else { 4 * images.c };
    n * h.min(images.h) * w.min(images.w) * bytes
}

/// Blocks of the backward kernel that registers allow on a multiprocessor: with gradients of weights, and without.
const BACKWARD_RESIDENT: usize = 2;
const ALONE_RESIDENT: usize = 3;

/// Instructions of a block of the backward kernel beside its tiles: weights are loaded before the first, and their gradients stored
/// after the last.
const ENDS: usize = 1000;
/// The same where no gradient of weights is made.
const ALONE_ENDS: usize = 250;

/// Floats between a row of pointwise weights and the next, beyond those of a row: on tensor cores, a warp reads several rows at once,
/// which so begin in different banks.
const WEIGHTS_PAD: usize = 8;

/// What a launch is cut for.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) struct Launch {
    /// Its units, one of [`TOGETHER`].
    pub(super) together: usize,
    /// Whether its products are made on tensor cores.
    pub(super) tensor: bool,
}

impl Launch {
    /// All there are.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        TOGETHER.into_iter().flat_map(|together| [false, true].map(|tensor| Self { together, tensor }))
    }
}

/// Whether warps can share 32 pixels x 16 columns of a product, at this depth of it.
fn warps_share(pixels: usize, columns: usize, depth: usize) -> bool {
    pixels.is_multiple_of(32) && columns.is_multiple_of(16) && columns <= 128 && depth.is_multiple_of(8)
}

/// `floats`, and as many more as it takes for neighbouring rows to begin eight banks apart.
fn tensor_pitch(floats: usize) -> usize {
    floats + (40 - floats % 32) % 32
}

/// Numbers of units in a launch that cuts are made for: fewer units are cut into more blocks.
const TOGETHER: [usize; 5] = [1, 2, 4, 8, 16];

/// The one of [`TOGETHER`] for so many units.
fn together(units: usize) -> usize {
    units.next_power_of_two().min(TOGETHER[4])
}

/// A kind, and the floats of shared memory that it takes.
#[derive(Debug, Copy, Clone)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) floats: usize,
    cost: usize,
    /// Instructions that a thread issues for a tile.
    instructions: usize,
}

/// Plans that were made: networks have hundreds of units of few shapes, and are laid down several times.
type Plans = Mutex<BTreeMap<[usize; 11], Option<Plan>>>;

fn remembered(
    plans: &Plans,
    images: Images,
    shape: UnitShape,
    launch: Launch,
    make: fn(Images, UnitShape, Launch) -> Option<Plan>,
) -> Option<Plan> {
    let Images { n, h, w, c } = images;
    let UnitShape { kernel, stride, dilation, c_in, c_out } = shape;
    let key = [n, h, w, c, kernel, stride, dilation, c_in, c_out, launch.together, usize::from(launch.tensor)];
    // What a thread that panicked left is whole.
    let lock = || plans.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&plan) = lock().get(&key) {
        return plan;
    }
    let plan = make(images, shape, launch);
    lock().insert(key, plan);
    plan
}

fn cheapest(plans: impl Iterator<Item = Plan>) -> Option<Plan> {
    plans.min_by_key(|plan| plan.cost)
}

/// The cut for a forward pass; none: its products cannot be made on tensor cores.
///
/// # Panics
/// If none fits without tensor cores: a kernel of hundreds of rows.
pub(super) fn forward(images: Images, shape: UnitShape, launch: Launch) -> Option<Plan> {
    static PLANS: Plans = Plans::new(BTreeMap::new());
    remembered(&PLANS, images, shape, launch, cheapest_forward)
}

fn cheapest_forward(images: Images, shape: UnitShape, launch: Launch) -> Option<Plan> {
    let out = shape.output(images);
    let cuts = tiles(out).flat_map(|tile| pieces(shape.c_out, 128).take(6).map(move |split| (tile, split)));
    let plans = cuts.filter_map(|(tile, split)| {
        if !shares_fit(split / 4, groups(tile, split)) {
            return None;
        }
        let whole = |&chunk: &usize| {
            let (depth, exact) = (chunk, shape.c_in.is_multiple_of(chunk) && shape.c_out.is_multiple_of(split));
            !launch.tensor || exact && warps_share(tile.pixels(), split, depth)
        };
        let cuts = pieces(shape.c_in, 64).filter(whole);
        let fit = cuts.map(|chunk| forward_plan(images, shape, launch, tile, split, chunk));
        fit.filter(|plan| plan.floats <= SHARED_FLOATS).take(2).min_by_key(|plan| plan.cost)
    });
    let plan = cheapest(plans);
    assert!(plan.is_some() || launch.tensor, "sep_unit::forward: {shape:?} does not fit shared memory");
    plan
}

/// Whether a thread of the forward kernel owns eight pixels, and not four, of its four columns.
fn is_wide(tile: Tile, split: usize) -> bool {
    tile.pixels() * split > 16 * THREADS
}

/// Groups of a tile's pixels that threads of the forward kernel own.
fn groups(tile: Tile, split: usize) -> usize {
    tile.pixels().div_ceil(if is_wide(tile, split) { 8 } else { 4 })
}

fn forward_plan(images: Images, shape: UnitShape, launch: Launch, tile: Tile, split: usize, chunk: usize) -> Plan {
    let (out, window) = (shape.output(images), shape.window());
    let (in_h, in_w, plane) = window.input(tile);
    let pixels = tile.pixels().next_multiple_of(8);
    let pitch = if launch.tensor { tensor_pitch(pixels) } else { pitch(pixels, tile.w) };
    let rows_at = chunk * plane;
    let pointwise_at = rows_at + chunk * pitch;
    // Sums over a block are added where the rows were, sums over warps have a place of their own.
    let scratch = if shares_interleave(split / 4) { 0 } else { column_sums_len(split / 4, groups(tile, split)) };
    let depthwise_at = (pointwise_at + chunk * (split + WEIGHTS_PAD)).max(rows_at + scratch);
    let sums_at = depthwise_at + (chunk * shape.kernel * shape.kernel).next_multiple_of(4);
    let slots_at = sums_at + if scratch == 0 { THREADS } else { 0 };
    let floats = slots_at + tile.pixels();
    let (chunks, splits) = (shape.c_in.div_ceil(chunk), shape.c_out.div_ceil(split));
    let load = tile4_rounds(tile.n * in_h * in_w, chunk) * 140;
    let weights = (chunk * split).div_ceil(THREADS) * 16;
    let patches = (chunk * window.patches(tile)).div_ceil(THREADS) * window.patch_cost();
    let (product, rest) = if is_wide(tile, split) { (44, 500) } else { (24, 350) };
    // Between chunks, z is stored and loaded again.
    let instructions = chunks * (load + weights + patches + chunk * product + 300) + (chunks - 1) * 900 + rest;
    let bytes =
        chunks * tile_bytes(images, (tile.n, in_h, in_w), chunk) + tile_bytes(out, (tile.n, tile.h, tile.w), split);
    let filling = Filling { together: launch.together, resident: if window.is_small() { 3 } else { 2 } };
    let cost = filling.cost(tile.count(out) * splits, floats, instructions, bytes);
    let kind = Kind {
        split: split as u32,
        splits: splits as u32,
        splits_magic: magic(splits),
        rows_at: rows_at as u32,
        pointwise_at: pointwise_at as u32,
        depthwise_at: depthwise_at as u32,
        sums_at: sums_at as u32,
        slots_at: slots_at as u32,
        weights_pitch: (split + WEIGHTS_PAD) as u32,
        share_magic: share_magic(split / 4),
        ..kind(out, shape, window, tile, chunk, pitch)
    };
    Plan { kind, floats, cost, instructions }
}

/// The cut for the backward pass up to the depthwise convolution; none: its products cannot be made on tensor cores.
///
/// # Panics
/// If none fits without tensor cores: beyond a thousand output channels, or with a kernel of dozens of rows.
pub(super) fn backward(images: Images, shape: UnitShape, launch: Launch) -> Option<Plan> {
    static PLANS: Plans = Plans::new(BTreeMap::new());
    remembered(&PLANS, images, shape, launch, cheapest_backward)
}

fn cheapest_backward(images: Images, shape: UnitShape, launch: Launch) -> Option<Plan> {
    let out = shape.output(images);
    let window = shape.window();
    let plans = tiles(out).filter_map(|tile| {
        let whole = |&chunk: &usize| {
            // Blocks of 16 x 16 weights, of which a warp has two at most, or several warps one.
            let blocks = shape.c_out / 16 * (chunk / 16);
            let exact = shape.c_in.is_multiple_of(chunk) && shape.c_out.is_multiple_of(16) && blocks.is_power_of_two();
            !launch.tensor || exact && blocks <= 16 && warps_share(tile.pixels(), chunk, shape.c_out)
        };
        let cuts = pieces(shape.c_in, 64).filter(whole);
        let fit = cuts.map(|chunk| backward_plan(images, shape, launch, tile, chunk));
        let fit = fit.filter(|plan| plan.floats <= SHARED_FLOATS);
        fit.filter(|plan| plan.kind.chunk as usize * window.patches(tile) <= THREADS)
            .take(2)
            .min_by_key(|plan| plan.cost)
    });
    let plan = cheapest(plans);
    assert!(plan.is_some() || launch.tensor, "sep_unit::backward: {shape:?} does not fit shared memory");
    plan
}

/// Floats of a row of pixels and of a row of weights in a backward pass.
fn backward_pitches(shape: UnitShape, launch: Launch, tile: Tile, chunk: usize) -> (usize, usize) {
    // Threads read one vector of each of neighbouring rows.
    let pixels = tile.pixels().next_multiple_of(8);
    let pitch = if launch.tensor { tensor_pitch(pixels) } else { pitch(pixels, 4) };
    // Very many rows of weights would leave no room.
    (pitch, chunk + if shape.c_out > 512 { 4 } else { WEIGHTS_PAD })
}

fn backward_plan(images: Images, shape: UnitShape, launch: Launch, tile: Tile, chunk: usize) -> Plan {
    let (out, window) = (shape.output(images), shape.window());
    let (in_h, in_w, plane) = window.input(tile);
    let (taps, c_out) = (shape.kernel * shape.kernel, shape.c_out.next_multiple_of(4));
    let patches = chunk * window.patches(tile);
    let (pitch, weights_pitch) = backward_pitches(shape, launch, tile, chunk);
    let parts = (patches * taps).next_multiple_of(4);
    let rows_at = chunk * plane;
    let dz = c_out * pitch;
    let slots = 2 * tile.pixels();
    let weights = shape.c_out * weights_pitch;
    let rest = chunk * pitch + weights + (chunk * taps).next_multiple_of(4) + slots;
    // A second tile of dz where there is room for it.
    let next_at = if rows_at + 2 * dz + rest <= SHARED_FLOATS { rows_at + dz } else { rows_at };
    let more_at = next_at + dz;
    let pointwise_at = more_at + chunk * pitch;
    let depthwise_at = pointwise_at + weights;
    let slots_at = depthwise_at + (chunk * taps).next_multiple_of(4);
    let end = slots_at + slots;
    // Parts of the depthwise gradient lie behind everything, or where there are but those of the end, in the place of everything.
    let (taps_at, floats) = if window.is_small() { (0, end.max(parts)) } else { (end, end + parts) };
    let floats = floats.max(16 * THREADS);
    let chunks = shape.c_in.div_ceil(chunk);
    let load = tile4_rounds(tile.n * in_h * in_w, chunk) * 100 + tile4_rounds(tile.pixels(), c_out) * 180;
    let wide = tile.pixels() * chunk > 16 * THREADS;
    let product =
        (tile.pixels() * chunk).div_ceil(if wide { 32 } else { 16 } * THREADS) * c_out * if wide { 44 } else { 24 };
    let pairs = c_out / 4 * chunk / 4;
    let sharing = (THREADS / pairs).clamp(1, tile.pixels() / 4);
    let gradient = pairs.div_ceil(THREADS) * (tile.pixels() / 4).div_ceil(sharing) * 96;
    let instructions = load + product + gradient + 2 * window.patch_cost() + 400;
    let here = (tile.n, tile.h, tile.w);
    // x, then two arrays as large as z, then g.
    let bytes = tile_bytes(images, (tile.n, in_h, in_w), chunk)
        + 2 * tile_bytes(out, here, shape.c_out)
        + tile_bytes(out.with_channels(shape.c_in), here, chunk);
    let per_block = shape.depthwise_len() + shape.pointwise_len();
    // Partial gradients of a launch's weights take no more than half as much memory as its z; of the largest launch 128 of them.
    let affordable = out.with_channels(shape.c_in).len() * TOGETHER[4] / (2 * per_block * launch.together);
    let wanted = 128_usize.div_ceil(chunks).min(affordable).max(8);
    let splits = even_splits(tile.count(out), wanted);
    let tiles = tile.count(out).div_ceil(splits);
    let filling = Filling { together: launch.together, resident: BACKWARD_RESIDENT };
    let cost = filling.cost(splits * chunks, floats, tiles * instructions + ENDS, tiles * bytes);
    let kind = Kind {
        splits: splits as u32,
        rows_at: rows_at as u32,
        next_at: next_at as u32,
        more_at: more_at as u32,
        pointwise_at: pointwise_at as u32,
        depthwise_at: depthwise_at as u32,
        taps_at: taps_at as u32,
        slots_at: slots_at as u32,
        weights_pitch: weights_pitch as u32,
        share_magic: share_magic(chunk / 4),
        ..kind(out, shape, window, tile, chunk, pitch)
    };
    Plan { kind, floats, cost, instructions }
}

/// The cut for a backward pass without gradients of weights, for which a block keeps but dz, of a tile and of the next; none: its
/// products cannot be made on tensor cores.
///
/// # Panics
/// If none fits without tensor cores: beyond a thousand output channels.
pub(super) fn alone(images: Images, shape: UnitShape, launch: Launch) -> Option<Plan> {
    static PLANS: Plans = Plans::new(BTreeMap::new());
    remembered(&PLANS, images, shape, launch, cheapest_alone)
}

fn cheapest_alone(images: Images, shape: UnitShape, launch: Launch) -> Option<Plan> {
    let plans = tiles(shape.output(images)).filter_map(|tile| {
        let whole = |&chunk: &usize| {
            let exact = shape.c_in.is_multiple_of(chunk) && shape.c_out.is_multiple_of(16);
            !launch.tensor || exact && warps_share(tile.pixels(), chunk, shape.c_out)
        };
        // Four pixels of four channels for every thread.
        let cuts = pieces(shape.c_in, 64).filter(whole).filter(|chunk| tile.pixels() * chunk <= 16 * THREADS);
        let fit = cuts.map(|chunk| alone_plan(images, shape, launch, tile, chunk));
        fit.filter(|plan| plan.floats <= SHARED_FLOATS).take(2).min_by_key(|plan| plan.cost)
    });
    let plan = cheapest(plans);
    assert!(plan.is_some() || launch.tensor, "sep_unit::backward: {shape:?} does not fit shared memory");
    plan
}

fn alone_plan(images: Images, shape: UnitShape, launch: Launch, tile: Tile, chunk: usize) -> Plan {
    let (out, window) = (shape.output(images), shape.window());
    let c_out = shape.c_out.next_multiple_of(4);
    let (pitch, weights_pitch) = backward_pitches(shape, launch, tile, chunk);
    let (dz, rest) = (c_out * pitch, shape.c_out * weights_pitch + 2 * tile.pixels());
    let next_at = if 2 * dz + rest <= SHARED_FLOATS { dz } else { 0 };
    let pointwise_at = next_at + dz;
    let slots_at = pointwise_at + shape.c_out * weights_pitch;
    let floats = next_at + dz + rest;
    let chunks = shape.c_in.div_ceil(chunk);
    let instructions = tile4_rounds(tile.pixels(), c_out) * 250 + c_out * 24 + 150;
    let here = (tile.n, tile.h, tile.w);
    let bytes = 2 * tile_bytes(out, here, shape.c_out) + tile_bytes(out.with_channels(shape.c_in), here, chunk);
    let splits = even_splits(tile.count(out), 256);
    let tiles = tile.count(out).div_ceil(splits);
    let filling = Filling { together: launch.together, resident: ALONE_RESIDENT };
    let cost = filling.cost(splits * chunks, floats, tiles * instructions + ALONE_ENDS, tiles * bytes);
    let kind = Kind {
        splits: splits as u32,
        next_at: next_at as u32,
        pointwise_at: pointwise_at as u32,
        slots_at: slots_at as u32,
        weights_pitch: weights_pitch as u32,
        share_magic: share_magic(chunk / 4),
        ..kind(out, shape, window, tile, chunk, pitch)
    };
    Plan { kind, floats, cost, instructions }
}

/// Whether products at this precision are made on tensor cores, where that is possible.
pub(super) fn wants_tensor(precision: Precision) -> bool {
    precision != Precision::F32
}

/// The plans of a launch's kinds, by `of`: on tensor cores where that is wanted and all of them can be; and whether they are.
pub(super) fn of_launch(
    launch: &[Vec<usize>],
    tensor: bool,
    of: impl Fn(&Vec<usize>, Launch) -> Option<Plan>,
) -> (Vec<Plan>, bool) {
    let together = together(launch.iter().map(Vec::len).sum());
    let plans = |tensor| launch.iter().map(|same| of(same, Launch { together, tensor })).collect::<Option<Vec<_>>>();
    match tensor.then(|| plans(true)).flatten() {
        Some(plans) => (plans, true),
        None => (plans(false).unwrap_or_default(), false),
    }
}

/// About `wanted` blocks for so many tiles, all of which have as many of them, or nearly.
fn even_splits(tiles: usize, wanted: usize) -> usize {
    tiles.div_ceil(((tiles + wanted / 2) / wanted).max(1))
}

/// Blocks of the backward kernel that share the tiles of each kind of a launch: no more than their plans say, and such that a large
/// device is soon done. `weights`: whether gradients of weights are made.
pub(super) fn share_tiles(plans: &[Plan], launch: &[Vec<usize>], weights: bool) -> Vec<u32> {
    let (resident, ends) = if weights { (BACKWARD_RESIDENT, ENDS) } else { (ALONE_RESIDENT, ALONE_ENDS) };
    let room = room(plans.iter().map(|plan| plan.floats).max().unwrap_or(0), resident);
    let share = |per_block: u32| -> (Vec<u32>, usize) {
        let splits: Vec<u32> =
            plans.iter().map(|plan| plan.kind.tiles.div_ceil(per_block).min(plan.kind.splits)).collect();
        let blocks = plans.iter().zip(launch).zip(&splits).map(|((plan, same), &splits)| {
            let tiles = plan.kind.tiles.div_ceil(splits) as usize;
            (splits as usize * plan.kind.chunks as usize * same.len(), tiles * plan.instructions + ends)
        });
        let end = end_of(room, blocks);
        (splits, end)
    };
    (1..=32).map(share).min_by_key(|&(_, end)| end).map_or_else(Vec::new, |(splits, _)| splits)
}

/// How many units of one x a block of the forward kernel computes, for every kind of a launch; `one_x` says whether its units read one.
/// A block loads it once for several, as long as there are so many blocks that a large device is full.
pub(super) fn share_x(plans: &[Plan], launch: &[Vec<usize>], one_x: impl Fn(&Vec<usize>) -> bool) -> Vec<u32> {
    // As measured.
    const BLOCKS: u32 = 384;
    let by = |per_block: u32| -> Vec<u32> {
        // x is there for the next unit if it is there whole.
        let of = |(plan, same): (&Plan, &Vec<usize>)| match plan.kind.chunks == 1 && one_x(same) {
            true => per_block.min(same.len() as u32),
            false => 1,
        };
        plans.iter().zip(launch).map(of).collect()
    };
    let blocks = |per_block: &Vec<u32>| -> u32 {
        let of = |((plan, same), per_block): ((&Plan, &Vec<usize>), &u32)| {
            plan.kind.tiles * plan.kind.splits * (same.len() as u32).div_ceil(*per_block)
        };
        plans.iter().zip(launch).zip(per_block).map(of).sum()
    };
    (2..=UNITS as u32).rev().map(by).find(|per_block| blocks(per_block) >= BLOCKS).unwrap_or_else(|| by(1))
}

/// What forward and backward have in common.
fn kind(out: Images, shape: UnitShape, window: Window, tile: Tile, chunk: usize, pitch: usize) -> Kind {
    let (in_h, in_w, plane) = window.input(tile);
    let (tiles_y, tiles_x) = tile.across(out);
    Kind {
        kernel: shape.kernel as u32,
        factor: window.factor as u32,
        dilation: window.dilation as u32,
        step: window.step as u32,
        stride: shape.stride as u32,
        padding: shape.padding() as u32,
        c_in: shape.c_in as u32,
        c_out: shape.c_out as u32,
        out_h: out.h as u32,
        out_w: out.w as u32,
        tile_n: tile.n as u32,
        tile_h: tile.h as u32,
        tile_w: tile.w as u32,
        tiles_y: tiles_y as u32,
        tiles_x: tiles_x as u32,
        tiles: tile.count(out) as u32,
        in_h: in_h as u32,
        in_w: in_w as u32,
        plane: plane as u32,
        pixels: tile.pixels() as u32,
        pitch: pitch as u32,
        chunk: chunk as u32,
        chunks: shape.c_in.div_ceil(chunk) as u32,
        quads_magic: magic(chunk / 4),
        quads_out_magic: magic(shape.c_out.div_ceil(4)),
        columns_magic: magic(tile.w / 4),
        chunk_magic: magic(chunk),
        patch_rows_magic: magic(window.patch_rows(tile.h)),
        tile_h_magic: magic(tile.h),
        across_magic: magic(in_w / 4),
        in_h_magic: magic(in_h),
        share_magic: 0,
        tiles_x_magic: magic(tiles_x),
        tiles_y_magic: magic(tiles_y),
        split: 0,
        splits: 1,
        splits_magic: magic(1),
        first_unit: 0,
        units: 0,
        per_block: 1,
        first_block: 0,
        rows_at: 0,
        next_at: 0,
        more_at: 0,
        pointwise_at: 0,
        depthwise_at: 0,
        taps_at: 0,
        sums_at: 0,
        slots_at: 0,
        weights_pitch: 0,
    }
}
