//! `synthetic-images`: labelled images that are generated from a seed, for trying a whole pipeline without a download.
//!
//! Each image shows one shape filled with one texture, at a jittered place and scale, in random colours, under noise.
//! With K classes there are K shapes and K textures, and class = (shape + texture) mod K: every shape and every
//! texture is equally frequent in every class, so that neither tells anything alone, and colour and position tell
//! nothing at all. A network has to see both and combine them: a better cell is measurably better, a linear model is
//! at chance. These images refuse to resemble photographs: a figure measured on them says nothing about CIFAR-10.

mod draw;

use crate::Error;
use crate::dataset::{Dataset, ImageSize, Normalization};
use crate::random::{Key, Purpose};

/// The most classes there can be: as many shapes and textures are drawn.
pub const MAX_CLASSES: usize = draw::KINDS;

/// What to generate.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticConfig {
    /// Size of the images; at least 8 × 8 pixels.
    pub image_size: ImageSize,
    /// Number of classes, 2 to [`MAX_CLASSES`].
    pub classes: usize,
    /// Number of training images.
    pub train_len: usize,
    /// Number of test images.
    pub test_len: usize,
    /// Standard deviation of the noise on each channel of each pixel, as a share of the full range; 0 to 1.
    pub noise: f64,
    /// What the images are a function of.
    pub seed: u64,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        let image_size = ImageSize::square(32);
        Self { image_size, classes: 3, train_len: 4000, test_len: 1000, noise: 0.06, seed: 0 }
    }
}

/// One split of the generated images; an image is drawn when it is read.
#[derive(Clone, Debug)]
pub struct SyntheticImages {
    config: SyntheticConfig,
    split: Split,
    class_names: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
enum Split {
    Train,
    Test,
}

impl SyntheticImages {
    /// The training images of a configuration.
    ///
    /// # Errors
    /// [`Error::Setting`] for a value outside its domain.
    pub fn train(config: &SyntheticConfig) -> Result<Self, Error> {
        Self::new(config, Split::Train)
    }

    /// The test images of a configuration: drawn like the training images, none of them the same.
    ///
    /// # Errors
    /// As [`train`](Self::train).
    pub fn test(config: &SyntheticConfig) -> Result<Self, Error> {
        Self::new(config, Split::Test)
    }

    fn new(config: &SyntheticConfig, split: Split) -> Result<Self, Error> {
        let refuse = |setting, value: String, expected| Err(Error::Setting { setting, value, expected });
        let ImageSize { height, width } = config.image_size;
        if !(8..=4096).contains(&height) || !(8..=4096).contains(&width) {
            return refuse("synthetic image size", format!("{height} x {width}"), "8 to 4096 pixels a side");
        }
        if !(2..=MAX_CLASSES).contains(&config.classes) {
            return refuse("synthetic classes", config.classes.to_string(), "2 to 8");
        }
        if !(0.0..=1.0).contains(&config.noise) {
            return refuse("synthetic noise", config.noise.to_string(), "0 to 1");
        }
        if config.train_len.max(config.test_len) > u32::MAX as usize {
            return refuse("synthetic examples", config.train_len.max(config.test_len).to_string(), "below 2^32");
        }
        let class_names = (0..config.classes).map(|class| format!("shape + texture = {class}")).collect();
        Ok(Self { config: config.clone(), split, class_names })
    }

    /// (shape, texture) of an example; their sum modulo the number of classes is its label.
    fn content(&self, index: usize) -> (usize, usize) {
        let shape = self.key(index).generator().below(self.config.classes);
        let texture = (self.label(index) as usize + self.config.classes - shape) % self.config.classes;
        (shape, texture)
    }

    fn key(&self, index: usize) -> Key {
        Key::new(self.config.seed, Purpose::SYNTHETIC).epoch(self.split as u64).sample(index as u64)
    }
}

impl Dataset for SyntheticImages {
    fn len(&self) -> usize {
        match self.split {
            Split::Train => self.config.train_len,
            Split::Test => self.config.test_len,
        }
    }

    fn image_size(&self) -> ImageSize {
        self.config.image_size
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn normalization(&self) -> Normalization {
        Normalization { mean: [0.5; 3], std: [0.25; 3] }
    }

    fn label(&self, index: usize) -> u32 {
        assert!(index < self.len(), "example {index} of {}", self.len());
        (index % self.config.classes) as u32
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<(), Error> {
        let (shape, texture) = self.content(index);
        let mut random = self.key(index).step(1).generator();
        draw::draw(shape, texture, self.config.noise, self.config.image_size, &mut random, pixels);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(dataset: &SyntheticImages) -> Vec<Vec<u8>> {
        let mut pixels = vec![0; dataset.image_size().len()];
        (0..dataset.len())
            .map(|index| {
                dataset.read(index, &mut pixels).unwrap();
                pixels.clone()
            })
            .collect()
    }

    #[test]
    fn neither_shape_nor_texture_tells_the_class() {
        let config = SyntheticConfig { train_len: 9000, ..SyntheticConfig::default() };
        let dataset = SyntheticImages::train(&config).unwrap();
        let (mut by_shape, mut by_texture) = ([[0; 3]; 3], [[0; 3]; 3]);
        for index in 0..dataset.len() {
            let ((shape, texture), label) = (dataset.content(index), dataset.label(index) as usize);
            assert_eq!((shape + texture) % 3, label);
            by_shape[shape][label] += 1;
            by_texture[texture][label] += 1;
        }
        for count in by_shape.iter().chain(&by_texture).flatten() {
            assert!((880..1120).contains(count), "9000/9 = 1000 expected: {by_shape:?} {by_texture:?}");
        }
    }

    #[test]
    fn images_are_a_function_of_the_seed_and_differ_between_splits() {
        let config = SyntheticConfig { train_len: 8, test_len: 8, ..SyntheticConfig::default() };
        let train = images(&SyntheticImages::train(&config).unwrap());
        assert_eq!(train, images(&SyntheticImages::train(&config).unwrap()));
        assert_ne!(train, images(&SyntheticImages::test(&config).unwrap()));
        let other = SyntheticConfig { seed: 1, ..config };
        assert_ne!(train, images(&SyntheticImages::train(&other).unwrap()));
    }

    #[test]
    fn any_size_and_class_count_in_the_domain_can_be_drawn() {
        for (height, width) in [(8, 8), (9, 31), (64, 16)] {
            let image_size = ImageSize { height, width };
            let config = SyntheticConfig { image_size, classes: 8, train_len: 200, ..SyntheticConfig::default() };
            assert_eq!(images(&SyntheticImages::train(&config).unwrap()).len(), 200);
        }
        let tiny = SyntheticConfig { image_size: ImageSize::square(7), ..SyntheticConfig::default() };
        assert!(SyntheticImages::train(&tiny).is_err());
        assert!(SyntheticImages::train(&SyntheticConfig { classes: 9, ..tiny }).is_err());
    }

    /// Softmax regression on the raw pixels, the strongest model that combines nothing.
    #[test]
    fn a_linear_model_stays_near_chance() {
        const CLASSES: usize = 3;
        let image_size = ImageSize::square(16);
        let config = SyntheticConfig { image_size, train_len: 4000, test_len: 2000, ..SyntheticConfig::default() };
        let (train, test) = (SyntheticImages::train(&config).unwrap(), SyntheticImages::test(&config).unwrap());
        let inputs = |dataset: &SyntheticImages| -> Vec<Vec<f32>> {
            let centred = |image: Vec<u8>| image.iter().map(|&x| (f32::from(x) - 128.0) / 64.0).collect();
            images(dataset).into_iter().map(centred).collect()
        };
        let mut weights = vec![[0_f32; CLASSES]; image_size.len()];
        let scores = |weights: &[[f32; CLASSES]], x: &[f32]| {
            let mut scores = [0_f32; CLASSES];
            for (row, &value) in weights.iter().zip(x) {
                (0..CLASSES).for_each(|class| scores[class] += row[class] * value);
            }
            scores
        };
        let (train_inputs, test_inputs) = (inputs(&train), inputs(&test));
        for epoch in 0..10 {
            for (index, x) in train_inputs.iter().enumerate() {
                let mut scores = scores(&weights, x);
                let exponentials = scores.map(f32::exp);
                let sum: f32 = exponentials.iter().sum();
                scores = exponentials.map(|e| e / sum);
                scores[train.label(index) as usize] -= 1.0;
                let rate = 1e-3 / (1.0 + epoch as f32);
                for (row, &value) in weights.iter_mut().zip(x) {
                    (0..CLASSES).for_each(|class| row[class] -= rate * scores[class] * value);
                }
            }
        }
        let right = (0..test.len())
            .filter(|&index| {
                let scores = scores(&weights, &test_inputs[index]);
                let best = (0..CLASSES).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
                best as u32 == test.label(index)
            })
            .count();
        let accuracy = right as f64 / test.len() as f64;
        assert!(accuracy < 0.38, "chance is 0.333; a linear model reached {accuracy}");
    }
}
