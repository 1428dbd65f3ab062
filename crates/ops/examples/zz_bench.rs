use darts_ops::images::*;
use darts_ops::sep_unit::*;
use darts_ops::simd::InstructionSet;
use std::time::Instant;
fn best(mut f: impl FnMut(), secs: f64) -> f64 {
    f();
    f();
    let mut b = f64::MAX;
    let t = Instant::now();
    while t.elapsed().as_secs_f64() < secs {
        let s = Instant::now();
        f();
        b = b.min(s.elapsed().as_secs_f64());
    }
    b
}
#[target_feature(enable = "avx2,fma")]
unsafe fn peak() -> f32 {
    use std::arch::x86_64::*;
    let mut a = [_mm256_set1_ps(1.0); 12];
    let x = _mm256_set1_ps(std::hint::black_box(0.999));
    let y = _mm256_set1_ps(std::hint::black_box(0.001));
    for _ in 0..1_000_000 {
        for v in a.iter_mut() {
            *v = _mm256_fmadd_ps(*v, x, y);
        }
    }
    let mut s = a[0];
    for v in &a[1..] {
        s = _mm256_add_ps(s, *v);
    }
    _mm256_cvtss_f32(s)
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let secs: f64 = args.get(1).map_or(0.3, |s| s.parse().unwrap());
    let only: Option<&str> = args.get(2).map(|s| &s[..]);
    let set = InstructionSet::selected();
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
    let p = || {
        let t = best(
            || {
                std::hint::black_box(unsafe { peak() });
            },
            0.1,
        );
        12.0 * 8.0 * 2.0 * 1e6 / t / 1e9
    };
    for (h, c, k, s, d, n) in [
        (32, 16, 3, 1, 1, 8),
        (32, 16, 5, 1, 1, 8),
        (32, 16, 3, 1, 2, 8),
        (16, 32, 3, 1, 1, 8),
        (16, 32, 5, 1, 1, 8),
        (8, 64, 3, 1, 1, 8),
        (8, 64, 5, 1, 1, 8),
        (32, 32, 3, 2, 1, 8),
        (16, 64, 5, 2, 1, 8),
        (32, 36, 3, 1, 1, 8),
        (16, 72, 3, 1, 1, 8),
        (8, 144, 3, 1, 1, 8),
        (28, 48, 3, 1, 1, 8),
        (14, 96, 3, 1, 1, 8),
        (7, 192, 3, 1, 1, 8),
        (32, 36, 7, 1, 1, 8),
    ] {
        let name = format!("{h}x{h} C{c} k{k} s{s} d{d}");
        if let Some(o) = only {
            if !name.contains(o) {
                continue;
            }
        }
        let pk = p();
        let im = Images { n, h, w: h, c };
        let sh = UnitShape { kernel: k, stride: s, dilation: d, c_in: c, c_out: c };
        let o = sh.output(im);
        let rnd = |n: usize| (0..n).map(|i| ((i * 7919 % 1013) as f32) / 500.0 - 1.0).collect::<Vec<f32>>();
        let x = rnd(im.len());
        let (a, b) = (rnd(c), rnd(c));
        let dw = rnd(c * k * k);
        let pw = rnd(c * c);
        let mut z = vec![0f32; o.len()];
        let mut sums = vec![0f64; 2 * c];
        let flops = 2.0 * sh.multiply_adds(im) as f64;
        let t = best(
            || {
                forward_on(
                    set,
                    im,
                    &x,
                    Some(Affine { scale: &a, shift: &b }),
                    &mut [UnitForward { shape: sh, depthwise: &dw, pointwise: &pw, z: &mut z, sums: Some(&mut sums) }],
                )
            },
            secs,
        );
        let g = rnd(o.len());
        let mut du = vec![0f32; im.len()];
        let mut ddw = dw.clone();
        let mut dpw = pw.clone();
        let mut sums = vec![0f64; 2 * c];
        let terms = [UpstreamTerm { grad: &g, scale: Some(&a), sample_scale: None }];
        let up = Upstream { terms: &terms, bn: Some(BnTerm { z: &z, b: &b, d: &b }) };
        let tb = best(
            || {
                backward_on(
                    set,
                    im,
                    &x,
                    Some(Affine { scale: &a, shift: &b }),
                    &mut [UnitBackward {
                        shape: sh,
                        depthwise: &dw,
                        pointwise: &pw,
                        upstream: up,
                        weights: Some((&mut ddw, &mut dpw)),
                    }],
                    Gradient { du: &mut du, write: Write::Overwrite, sums: Some(&mut sums) },
                )
            },
            secs,
        );
        let tn = best(
            || {
                backward_on(
                    set,
                    im,
                    &x,
                    Some(Affine { scale: &a, shift: &b }),
                    &mut [UnitBackward { shape: sh, depthwise: &dw, pointwise: &pw, upstream: up, weights: None }],
                    Gradient { du: &mut du, write: Write::Overwrite, sums: Some(&mut sums) },
                )
            },
            secs,
        );
        // backward flops: dx pw + corr (fwd flops) + dW pw + dDW (fwd) + recompute dw
        let op = o.pixels() as f64;
        let rec = 2.0 * op * (c * k * k) as f64;
        println!(
            "{name:22} peak {pk:5.1} | fwd {:7.3} ms {:5.1} GF ({:4.1}%) | bwd {:7.3} ms {:5.1} GF ({:4.1}%) | bwd α {:7.3} ms {:5.1} GF ({:4.1}%)",
            t * 1e3,
            flops / t / 1e9,
            flops / t / 1e7 / pk,
            tb * 1e3,
            (2.0 * flops + rec) / tb / 1e9,
            (2.0 * flops + rec) / tb / 1e7 / pk,
            tn * 1e3,
            flops / tn / 1e9,
            flops / tn / 1e7 / pk
        );
    }
}
