//! The keyed generator: every random number of a run is a function of (seed, purpose, epoch, step, sample), never of
//! shared state, so that it is the same whatever the number of threads, and after a resume.
//!
//! The numbers come from `rand_chacha`'s ChaCha with 8 rounds: seed, purpose, epoch and step are its 256-bit key, the
//! sample is its 64-bit stream, so distinct keys give independent streams. This file refuses to read the clock, the
//! operating system's entropy, or a generator that someone else has advanced.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What random numbers are for: a part of the [`Key`], so that two uses never share numbers.
///
/// Any crate can define its own: `const DROP_PATH: Purpose = Purpose::new("drop path");`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Purpose(u64);

impl Purpose {
    /// Order of an epoch's examples.
    pub const SHUFFLE: Self = Self::new("shuffle");
    /// Crops, flips and cutout boxes of an epoch's examples.
    pub const AUGMENT: Self = Self::new("augment");
    /// Members of the fresh random batch of a step.
    pub const RANDOM_BATCH: Self = Self::new("random batch");
    /// Crops, flips and cutout boxes of a random batch.
    pub const AUGMENT_RANDOM_BATCH: Self = Self::new("augment random batch");
    /// Which examples are held out.
    pub const SPLIT: Self = Self::new("split");
    /// Images and tokens that are generated rather than read.
    pub const SYNTHETIC: Self = Self::new("synthetic");

    /// The purpose of this name (its FNV-1a hash).
    pub const fn new(name: &str) -> Self {
        let bytes = name.as_bytes();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
            i += 1;
        }
        Self(hash)
    }
}

/// The five numbers that a random stream is a function of.
///
/// ```
/// use darts_data::random::{Key, Purpose};
/// let mut a = Key::new(7, Purpose::AUGMENT).epoch(3).sample(41).generator();
/// let mut b = Key::new(7, Purpose::AUGMENT).epoch(3).sample(41).generator();
/// assert_eq!(a.below(1000), b.below(1000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    seed: u64,
    purpose: Purpose,
    epoch: u64,
    step: u64,
    sample: u64,
}

impl Key {
    /// The key of a run's seed and a purpose, with epoch, step and sample 0.
    pub const fn new(seed: u64, purpose: Purpose) -> Self {
        Self { seed, purpose, epoch: 0, step: 0, sample: 0 }
    }

    /// The same key at another epoch.
    pub const fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// The same key at another step.
    pub const fn step(mut self, step: u64) -> Self {
        self.step = step;
        self
    }

    /// The same key for another sample (or row, or parameter).
    pub const fn sample(mut self, sample: u64) -> Self {
        self.sample = sample;
        self
    }

    /// The generator at the start of this key's stream.
    pub fn generator(self) -> Generator {
        let mut seed = [0; 32];
        for (bytes, word) in seed.chunks_exact_mut(8).zip([self.seed, self.purpose.0, self.epoch, self.step]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut chacha = ChaCha8Rng::from_seed(seed);
        chacha.set_stream(self.sample);
        Generator { chacha, spare_normal: None }
    }
}

/// A stream of random numbers, made by [`Key::generator`].
#[derive(Clone, Debug)]
pub struct Generator {
    chacha: ChaCha8Rng,
    spare_normal: Option<f64>,
}

impl Generator {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.chacha.next_u64()
    }

    /// Fills a slice with random bytes.
    pub fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.chacha.fill_bytes(bytes);
    }

    /// A uniform integer in `0..bound`, exactly uniform (Lemire's multiply-and-reject, arXiv 1805.10941).
    ///
    /// # Panics
    /// If `bound` is 0: there is no such integer.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "random integer below 0");
        let bound = bound as u64;
        let mut product = u128::from(self.bits()) * u128::from(bound);
        if (product as u64) < bound {
            let reject_below = bound.wrapping_neg() % bound;
            while (product as u64) < reject_below {
                product = u128::from(self.bits()) * u128::from(bound);
            }
        }
        (product >> 64) as usize
    }

    /// A uniform number in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// True with the given probability (0 or less: never; 1 or more: always).
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// A standard normal number (Marsaglia's polar method; every second one is the spare of the one before).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let factor = (-2.0 * square.ln() / square).sqrt();
                self.spare_normal = Some(y * factor);
                return x * factor;
            }
        }
    }

    /// Puts a slice into a uniformly random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// A uniformly random order of `0..n`.
    ///
    /// # Panics
    /// If `n` exceeds 2³²: indices of examples are 32-bit.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let n = u32::try_from(n).expect("a permutation has at most 2^32 - 1 members");
        let mut order: Vec<u32> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }

    /// `count` different members of `0..n` in random order: the first `count` members of a permutation, in O(count)
    /// memory (Floyd's algorithm, then a shuffle). `chosen` is overwritten.
    ///
    /// # Panics
    /// If `count` exceeds `n`, or `n` exceeds 2³² − 1.
    pub fn choose(&mut self, n: usize, count: usize, chosen: &mut Vec<u32>) {
        assert!(count <= n, "cannot choose {count} different members of {n}");
        u32::try_from(n).expect("examples are numbered with 32 bits");
        chosen.clear();
        let mut seen = std::collections::HashSet::with_capacity(count);
        for last in n - count..n {
            let candidate = self.below(last + 1) as u32;
            let member = if seen.insert(candidate) {
                candidate
            } else {
                seen.insert(last as u32);
                last as u32
            };
            chosen.push(member);
        }
        self.shuffle(chosen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generator(seed: u64) -> Generator {
        Key::new(seed, Purpose::new("test")).generator()
    }

    #[test]
    fn every_part_of_the_key_changes_the_stream() {
        let base = Key::new(1, Purpose::SHUFFLE);
        let keys = [
            base,
            Key::new(2, Purpose::SHUFFLE),
            Key::new(1, Purpose::AUGMENT),
            base.epoch(1),
            base.step(1),
            base.sample(1),
            base.epoch(1).step(1),
        ];
        let mut first: Vec<u64> = keys.iter().map(|key| key.generator().bits()).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), keys.len());
    }

    #[test]
    fn integers_are_uniform_by_chi_square() {
        let mut random = generator(3);
        let (bound, draws) = (7, 70_000);
        let mut counts = vec![0_f64; bound];
        for _ in 0..draws {
            counts[random.below(bound)] += 1.0;
        }
        let expected = draws as f64 / bound as f64;
        let chi_square: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
        assert!(chi_square < 22.5, "chi-square {chi_square} with 6 degrees of freedom (p = 0.001 at 22.5)");
    }

    #[test]
    fn normals_have_the_moments_of_the_normal_distribution() {
        let mut random = generator(4);
        let n = 200_000;
        let draws: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let moment = |power: i32| draws.iter().map(|x| x.powi(power)).sum::<f64>() / f64::from(n);
        assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.15, "fourth moment {}", moment(4));
    }

    #[test]
    fn permutations_hold_every_member_once() {
        let mut order = generator(5).permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, &member)| i as u32 == member));
    }

    #[test]
    fn chosen_members_are_different_and_equally_likely() {
        let mut random = generator(6);
        let (mut counts, mut chosen) = ([0; 10], Vec::new());
        for _ in 0..10_000 {
            random.choose(10, 4, &mut chosen);
            for &member in &chosen {
                counts[member as usize] += 1;
            }
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(chosen.len(), 4);
        }
        assert!(counts.iter().all(|&count| (3800..4200).contains(&count)), "{counts:?}");
    }

    #[test]
    fn uniform_numbers_stay_in_the_unit_interval() {
        let mut random = generator(7);
        let draws: Vec<f64> = (0..10_000).map(|_| random.uniform()).collect();
        assert!(draws.iter().all(|x| (0.0..1.0).contains(x)));
        assert!((draws.iter().sum::<f64>() / 10_000.0 - 0.5).abs() < 0.02);
    }
}
