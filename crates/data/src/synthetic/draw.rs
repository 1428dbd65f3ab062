//! The pictures of `synthetic-images`: a shape, filled with a texture, on a plain ground, under noise. Axes: y down,
//! x right, in pixels. It refuses to know about classes.

use crate::dataset::{CHANNELS, ImageSize};
use crate::random::Generator;

/// Number of shapes, and of textures.
pub(super) const KINDS: usize = 8;
/// True where the point (x, y), in units of the shape's radius from its centre, lies inside shape number `shape`.
fn inside(shape: usize, x: f32, y: f32) -> bool {
    let (ax, ay) = (x.abs(), y.abs());
    let square = x * x + y * y;
    match shape {
        0 => square < 1.0,                                                          // disc
        1 => (ax < 0.36 && ay < 1.05) || (ay < 0.36 && ax < 1.05),                  // plus
        2 => ay < 0.95 && ax < 0.58 * (y + 0.95),                                   // triangle
        3 => (0.36..1.1).contains(&square),                                         // ring
        4 => ax.max(ay) < 0.88,                                                     // square
        5 => ax + ay < 1.15,                                                        // diamond
        6 => ay < 0.98 && ax < 0.12 + 0.8 * ay,                                     // hourglass
        _ => (ax < 0.95 && (-0.95..-0.3).contains(&y)) || (ax < 0.33 && ay < 0.95), // T
    }
}

/// True where texture number `texture` shows its first colour; (u, v) is the place in units of its period.
fn first_colour(texture: usize, u: f32, v: f32) -> bool {
    let odd = |t: f32| (2.0 * t).floor() as i32 & 1 == 1;
    match texture {
        0 => odd(v),                 // horizontal stripes
        1 => odd(u),                 // vertical stripes
        2 => odd(u) != odd(v),       // checkerboard
        3 => odd(0.7 * (u + v)),     // rising diagonals
        4 => odd(0.7 * (u - v)),     // falling diagonals
        5 => odd(u) && odd(v),       // dots
        6 => odd(u) || odd(v),       // grid
        _ => odd(0.5 * u) != odd(v), // bricks
    }
}

/// Draws one image over `pixels` (`[H, W, 3]`); place, scale, period, phase, colours and noise come from `random`.
pub(super) fn draw(
    shape: usize,
    texture: usize,
    noise: f64,
    size: ImageSize,
    random: &mut Generator,
    pixels: &mut [u8],
) {
    let mut between = |low: f32, high: f32| low + (high - low) * random.uniform() as f32;
    let (height, width) = (size.height as f32, size.width as f32);
    let side = height.min(width);
    let radius = side * between(0.34, 0.44);
    let (centre_y, centre_x) = (height * between(0.42, 0.58), width * between(0.42, 0.58));
    let period = (side * between(0.15, 0.20)).max(4.0);
    let (phase_y, phase_x) = (between(16.0, 18.0), between(16.0, 18.0));
    let mut bright = [0.0; CHANNELS].map(|_: f32| between(185.0, 255.0));
    let mut dark = [0.0; CHANNELS].map(|_: f32| between(0.0, 70.0));
    let ground = [0.0; CHANNELS].map(|_: f32| between(95.0, 160.0));
    if random.chance(0.5) {
        std::mem::swap(&mut bright, &mut dark);
    }
    // The sum of two uniform bytes, centred, has a standard deviation of 104.5.
    let amplitude = (noise * 255.0 / 104.5) as f32;
    let mut bytes = vec![0; 2 * CHANNELS * size.width];
    for (row, pixels) in pixels.chunks_exact_mut(CHANNELS * size.width).enumerate() {
        random.fill_bytes(&mut bytes);
        let noise = bytes.chunks_exact(2 * CHANNELS);
        for (column, (pixel, noise)) in pixels.chunks_exact_mut(CHANNELS).zip(noise).enumerate() {
            let (y, x) = (row as f32 + 0.5, column as f32 + 0.5);
            let colour = if !inside(shape, (x - centre_x) / radius, (y - centre_y) / radius) {
                &ground
            } else if first_colour(texture, x / period + phase_x, y / period + phase_y) {
                &bright
            } else {
                &dark
            };
            for ((value, &mean), noise) in pixel.iter_mut().zip(colour).zip(noise.chunks_exact(2)) {
                let deviation = f32::from(noise[0]) + f32::from(noise[1]) - 255.0;
                *value = (mean + amplitude * deviation).round().clamp(0.0, 255.0) as u8;
            }
        }
    }
}
