//! What a set of labelled images is to everything else: the [`Dataset`] trait, and [`Subset`] for its parts (halves of
//! a search, limits, held-out fractions). It refuses to know where pixels come from, or what is done to them later.

use std::ops::Range;
use std::sync::Arc;

use crate::Error;
use crate::picture::scale;
use crate::random::{Key, Purpose};
use crate::transform::Region;

/// Channels of every image here: red, green, blue.
pub const CHANNELS: usize = 3;

/// Height and width of images, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ImageSize {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl ImageSize {
    /// A square image.
    pub const fn square(side: usize) -> Self {
        Self { height: side, width: side }
    }

    /// Numbers (pixels × channels) of one image.
    pub const fn len(self) -> usize {
        self.height * self.width * CHANNELS
    }

    /// True when there are no pixels.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Per-channel constants of x ↦ (x/255 − mean)/std for pixel values x of 0 to 255, in order red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Normalization {
    /// Mean of x/255.
    pub mean: [f64; CHANNELS],
    /// Standard deviation of x/255; positive.
    pub std: [f64; CHANNELS],
}

impl Normalization {
    /// CIFAR-10's, over its training images.
    pub const CIFAR10: Self =
        Self { mean: [0.491_399_68, 0.482_158_27, 0.446_531_24], std: [0.247_032_33, 0.243_485_05, 0.261_587_68] };
    /// ImageNet's customary ones.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
}

/// Labelled RGB images of one size, addressed by index.
///
/// An index gives the same pixels and label each time, from any thread: loaders rely on it for reproducibility.
pub trait Dataset: Send + Sync {
    /// Number of examples.
    fn len(&self) -> usize;

    /// True when there are no examples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of every image.
    fn image_size(&self) -> ImageSize;

    /// The classes' names; a label indexes them.
    fn class_names(&self) -> &[String];

    /// The constants that images are normalized with: those of the training images, for every split.
    fn normalization(&self) -> Normalization;

    /// Label of an example, below the number of classes.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    fn label(&self, index: usize) -> u32;

    /// Overwrites `pixels` with an example's image.
    ///
    /// # Shapes
    /// `pixels`: `[H, W, 3]` of [`image_size`](Self::image_size), bytes 0 to 255 in sRGB.
    ///
    /// # Errors
    /// When a file that holds it cannot be read or decoded.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len) or `pixels` has another length.
    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<(), Error>;

    /// Overwrites `pixels` with a part of an example's image, scaled to [`image_size`](Self::image_size). `choose` says
    /// which, given the size of the image as it is stored; a dataset that keeps larger images than it shows overrides this.
    ///
    /// # Shapes, Errors, Panics
    /// As [`read`](Self::read).
    fn read_region(
        &self,
        index: usize,
        choose: &mut dyn FnMut(ImageSize) -> Region,
        pixels: &mut [u8],
    ) -> Result<(), Error> {
        let size = self.image_size();
        let region = choose(size);
        self.read(index, pixels)?;
        if region != Region::whole(size) {
            let image = pixels.to_vec();
            scale::scale(&image, size, region, size, pixels);
        }
        Ok(())
    }

    /// What an example is called, for messages about it.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    fn name(&self, index: usize) -> String {
        format!("example {index}")
    }
}

impl<D: Dataset + ?Sized> Dataset for Arc<D> {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn image_size(&self) -> ImageSize {
        (**self).image_size()
    }

    fn class_names(&self) -> &[String] {
        (**self).class_names()
    }

    fn normalization(&self) -> Normalization {
        (**self).normalization()
    }

    fn label(&self, index: usize) -> u32 {
        (**self).label(index)
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<(), Error> {
        (**self).read(index, pixels)
    }

    fn read_region(
        &self,
        index: usize,
        choose: &mut dyn FnMut(ImageSize) -> Region,
        pixels: &mut [u8],
    ) -> Result<(), Error> {
        (**self).read_region(index, choose, pixels)
    }

    fn name(&self, index: usize) -> String {
        (**self).name(index)
    }
}

/// Some examples of a dataset, in an order of its own.
#[derive(Clone)]
pub struct Subset {
    dataset: Arc<dyn Dataset>,
    indices: Vec<u32>,
}

impl Subset {
    /// A run of consecutive examples.
    ///
    /// # Panics
    /// If the range reaches beyond the dataset.
    pub fn range(dataset: Arc<dyn Dataset>, range: Range<usize>) -> Self {
        assert!(range.end <= dataset.len(), "range {range:?} of a dataset of {} examples", dataset.len());
        let indices = range.map(|index| index as u32).collect();
        Self { dataset, indices }
    }

    /// The first `limit` examples, or all where there are fewer.
    pub fn first(dataset: Arc<dyn Dataset>, limit: usize) -> Self {
        let end = limit.min(dataset.len());
        Self::range(dataset, 0..end)
    }

    /// The two halves of a search: the first ⌊n/2⌋ examples train w, the others α.
    pub fn halves(dataset: Arc<dyn Dataset>) -> (Self, Self) {
        let (n, half) = (dataset.len(), dataset.len() / 2);
        (Self::range(dataset.clone(), 0..half), Self::range(dataset, half..n))
    }

    /// (kept, held out): from each class a share of its examples is held out, drawn by the seed; both parts keep
    /// the dataset's order. Each class gives round(fraction · its size), and always keeps at least one.
    ///
    /// # Errors
    /// [`Error::Setting`] unless 0 ≤ fraction < 1.
    pub fn hold_out(dataset: Arc<dyn Dataset>, fraction: f64, seed: u64) -> Result<(Self, Self), Error> {
        if !(0.0..1.0).contains(&fraction) {
            return Err(Error::Setting {
                setting: "held-out fraction",
                value: fraction.to_string(),
                expected: "at least 0, less than 1",
            });
        }
        let mut by_class = vec![Vec::new(); dataset.class_names().len()];
        for index in 0..dataset.len() {
            by_class[dataset.label(index) as usize].push(index as u32);
        }
        let mut held = vec![false; dataset.len()];
        for (class, mut members) in by_class.into_iter().enumerate() {
            let share = held_out_share(members.len(), fraction);
            Key::new(seed, Purpose::SPLIT).sample(class as u64).generator().shuffle(&mut members);
            for &index in &members[..share] {
                held[index as usize] = true;
            }
        }
        let (held_out, kept) = (0..dataset.len() as u32).partition(|&index| held[index as usize]);
        Ok((Self { dataset: dataset.clone(), indices: kept }, Self { dataset, indices: held_out }))
    }

    /// The members' indices in the dataset that this is a part of.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }
}

/// How many of a class's `n` examples are held out: round(fraction · n), at least one kept.
pub(crate) fn held_out_share(n: usize, fraction: f64) -> usize {
    ((n as f64 * fraction).round() as usize).min(n.saturating_sub(1))
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn image_size(&self) -> ImageSize {
        self.dataset.image_size()
    }

    fn class_names(&self) -> &[String] {
        self.dataset.class_names()
    }

    fn normalization(&self) -> Normalization {
        self.dataset.normalization()
    }

    fn label(&self, index: usize) -> u32 {
        self.dataset.label(self.indices[index] as usize)
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<(), Error> {
        self.dataset.read(self.indices[index] as usize, pixels)
    }

    fn read_region(
        &self,
        index: usize,
        choose: &mut dyn FnMut(ImageSize) -> Region,
        pixels: &mut [u8],
    ) -> Result<(), Error> {
        self.dataset.read_region(self.indices[index] as usize, choose, pixels)
    }

    fn name(&self, index: usize) -> String {
        self.dataset.name(self.indices[index] as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{SyntheticConfig, SyntheticImages};

    fn dataset(len: usize) -> Arc<dyn Dataset> {
        Arc::new(SyntheticImages::train(&SyntheticConfig { train_len: len, ..SyntheticConfig::default() }).unwrap())
    }

    #[test]
    fn halves_share_nothing_and_cover_everything() {
        let (first, second) = Subset::halves(dataset(101));
        assert_eq!((first.len(), second.len()), (50, 51));
        let both: Vec<u32> = first.indices().iter().chain(second.indices()).copied().collect();
        assert_eq!(both, (0..101).collect::<Vec<u32>>());
    }

    #[test]
    fn first_takes_no_more_than_there_is() {
        assert_eq!(Subset::first(dataset(10), 4).len(), 4);
        assert_eq!(Subset::first(dataset(10), 40).len(), 10);
    }

    #[test]
    fn hold_out_is_stratified_and_a_function_of_the_seed() {
        let whole = dataset(400);
        let (kept, held) = Subset::hold_out(whole.clone(), 0.25, 1).unwrap();
        assert_eq!(kept.len() + held.len(), 400);
        for class in 0..whole.class_names().len() as u32 {
            let count = |set: &Subset| (0..set.len()).filter(|&i| set.label(i) == class).count();
            let (k, h) = (count(&kept), count(&held));
            assert_eq!(h, held_out_share(k + h, 0.25), "class {class}");
        }
        let again = Subset::hold_out(whole.clone(), 0.25, 1).unwrap();
        assert_eq!(held.indices(), again.1.indices());
        assert_ne!(held.indices(), Subset::hold_out(whole, 0.25, 2).unwrap().1.indices());
    }

    #[test]
    fn hold_out_refuses_to_hold_out_everything() {
        let error = Subset::hold_out(dataset(4), 1.0, 0).err().unwrap();
        assert_eq!(error.to_string(), "held-out fraction is 1, expected at least 0, less than 1");
    }

    #[test]
    fn subset_reads_what_the_dataset_reads() {
        let whole = dataset(20);
        let part = Subset::range(whole.clone(), 5..9);
        let (mut a, mut b) = (vec![0; whole.image_size().len()], vec![0; whole.image_size().len()]);
        whole.read(7, &mut a).unwrap();
        part.read(2, &mut b).unwrap();
        assert_eq!(a, b);
        assert_eq!(whole.label(7), part.label(2));
        let mut corner = |size: ImageSize| Region { width: 8.0, height: 8.0, ..Region::whole(size) };
        whole.read_region(7, &mut corner, &mut a).unwrap();
        part.read_region(2, &mut corner, &mut b).unwrap();
        assert_eq!((a, whole.name(7)), (b, part.name(2)));
    }

    #[test]
    fn a_region_of_an_image_is_scaled_to_its_size() {
        let (set, size) = (dataset(1), ImageSize::square(32));
        let (mut whole, mut part) = (vec![0; size.len()], vec![0; size.len()]);
        set.read(0, &mut whole).unwrap();
        set.read_region(0, &mut Region::whole, &mut part).unwrap();
        assert_eq!(whole, part);
        let quarter = Region { left: 8.0, top: 4.0, width: 16.0, height: 16.0 };
        set.read_region(0, &mut |_| quarter, &mut part).unwrap();
        let mut expected = vec![0; size.len()];
        scale::scale(&whole, size, quarter, size, &mut expected);
        assert_eq!(part, expected);
    }
}
